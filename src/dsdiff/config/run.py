"""RunConfig: the configuration of one training run, read from one YAML file."""

from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator
from torch import nn

from dsdiff.backbones import registry
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.network import Conditioner, Network
from dsdiff.config.overrides import find_config, find_overrides, read_config
from dsdiff.config.training import KEYS_OF_THE_FIELD, LossConfig, TrainingConfig
from dsdiff.data.settings import TARGET, DataConfig
from dsdiff.diffusion.process import NoiseProcess
from dsdiff.diffusion.registry import build_process, build_sampler
from dsdiff.diffusion.samplers import Sampler
from dsdiff.errors import ConfigError
from dsdiff.network_protocols import Backbone
from dsdiff.schema import ConfigModel, TargetConfig, format_validation_error


class RunConfig(ConfigModel):
    """The configuration of one run.

    Attributes:
        seed: Seed of all random numbers: new weights, slices, augmentation, noise and dropout.
        sampler: None for the default sampler of the process.
        loss: Terms that are summed; a single term needs no list in the YAML.
    """

    seed: int = Field(2024, ge=0, lt=2**63)
    data: DataConfig = DataConfig()
    conditioning: ConditioningConfig = ConditioningConfig()
    backbone: registry.BackboneTarget = registry.DEFAULT
    process: TargetConfig = TargetConfig(target="bridge")
    sampler: TargetConfig | None = None
    loss: tuple[LossConfig, ...] = Field((LossConfig(),), min_length=1)
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _rename_unet_config(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "unet_config" not in values:
            return values
        if "backbone" in values:
            raise ValueError("backbone and unet_config are two names of one block; give one of them")

        return {("backbone" if key == "unet_config" else key): value for key, value in values.items()}

    @field_validator("loss", mode="before")
    @classmethod
    def _wrap_single_term(cls, terms: Any) -> Any:
        return [terms] if isinstance(terms, dict) else terms

    @field_serializer("loss", when_used="json")
    def _serialize_single_term(self, terms: tuple[LossConfig, ...]) -> Any:
        plain = [term.model_dump(mode="json") for term in terms]
        return plain[0] if len(plain) == 1 else plain

    @model_validator(mode="after")
    def _check_target(self) -> "RunConfig":
        if self.data.target != TARGET:
            raise ValueError(f"data.target is '{self.data.target}'; dsdiff synthesizes and scores only {TARGET}")

        return self

    @model_validator(mode="after")
    def _check_sampler(self) -> "RunConfig":
        self.build_sampler()
        return self

    @model_validator(mode="after")
    def _check_disentangle(self) -> "RunConfig":
        targets = [term.target for term in self.conditioning.disentangle]
        for target in ("common_distinct", "common_over_distinct"):
            if len(self.data.contrasts) == 1 and target in targets:
                raise ValueError(f"disentangle target '{target}' compares contrasts; data.contrasts has only one")

        return self

    @model_validator(mode="after")
    def _check_style_target(self) -> "RunConfig":
        if self.conditioning.style != "none" and self.data.target_style != "own":
            raise ValueError(
                f"conditioning.style '{self.conditioning.style}' needs the style of each target; with "
                f"data.target_style '{self.data.target_style}' all targets have the same: set it to own"
            )

        return self

    def build_backbone(self) -> nn.Module:
        """Build the backbone with new weights.

        Returns:
            The backbone.

        Raises:
            ConfigError: The backbone does not fit the process or the crop.
        """
        layout = self.conditioning.layout(self.data.contrasts, self.data.context_slices)
        backbone = registry.build(self.backbone, layout)
        params, process_channels = registry.parse(self.backbone), self.build_process().out_channels
        if params is not None and params.n_outputs != process_channels:
            raise ConfigError(
                f"backbone '{self.backbone.target}' returns {params.n_outputs} channels, process "
                f"'{self.process.target}' needs {process_channels}: see out_channels and learn_sigma"
            )
        if params is None and process_channels != 1:
            raise ConfigError(
                f"process '{self.process.target}' needs {process_channels} channels (process.params.predict_error); "
                f"external backbone '{self.backbone.target}' returns one"
            )
        self._check_crop(cast(Backbone, backbone).multiple, f"backbone '{self.backbone.target}' needs it")

        return backbone

    def build_network(self) -> Network:
        """Build the backbone and its conditioner with new weights.

        Returns:
            The network.

        Raises:
            ConfigError: Backbone, conditioner, process and data do not fit.
        """
        backbone = self.build_backbone()
        network = Network(backbone, Conditioner(self.conditioning, len(self.data.contrasts), self.data.context_slices))
        self._check_crop(network.multiple, "backbone and conditioning.encoder_params need it")

        has_feature_pairs = getattr(backbone, "returns_feature_pairs", False)
        if self.conditioning.disentangle and self.conditioning.encoder == "none" and not has_feature_pairs:
            raise ConfigError(
                f"conditioning.disentangle needs shared and specific features; backbone '{self.backbone.target}' has "
                "none: set conditioning.encoder, or use disc_unet or ds_unet"
            )
        has_lesion_features = getattr(backbone, "returns_lesion_features", False)
        needs_lesion_features = any(term.target == "anatomy_lesion" for term in self.conditioning.disentangle)
        if needs_lesion_features and not has_lesion_features:
            raise ConfigError(
                "conditioning.disentangle target 'anatomy_lesion' needs an anatomy head and a lesion head; backbone "
                f"'{self.backbone.target}' has none: use ds_unet, or remove the term"
            )

        return network

    def _check_crop(self, multiple: int, reason: str) -> None:
        if any(size % multiple for size in self.data.crop):
            raise ConfigError(f"data.crop {list(self.data.crop)} must be multiples of {multiple}: {reason}")

    def meta_network(self) -> Network:
        """Build the network on torch's meta device, to count parameters without memory for them.

        Returns:
            The network. An external backbone is built with real weights, since its constructor may compute with them.

        Raises:
            ConfigError: As in `build_network`.
        """
        if not registry.is_builtin(self.backbone):
            return self.build_network()
        with torch.device("meta"):
            return self.build_network().to("meta")  # some libraries create tensors on the CPU

    def build_process(self) -> NoiseProcess:
        """Build the noise process.

        Returns:
            The process.
        """
        return build_process(self.process.target, self.process.params)

    def build_sampler(self) -> Sampler:
        """Build the sampler, or the default one of the process.

        Returns:
            The sampler.
        """
        name, params = (self.sampler.target, self.sampler.params) if self.sampler else (None, {})
        return build_sampler(name, params, self.build_process(), self.process.target)


def load_config(name_or_path: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a config file and apply overrides.

    Args:
        name_or_path: A YAML file, or the name of a config that is installed with dsdiff. Relative paths in the file
            start at the working directory.
        overrides: key=value with dotted keys. `backbone=FILE` takes the backbone block of another YAML. Another target
            of process, sampler or loss starts from the defaults of that target.

    Returns:
        The validated config.

    Raises:
        ConfigError: The message lists every unknown key and every invalid value.
    """
    path = find_config(name_or_path)
    return parse_config(read_config(path, overrides), str(path), overrides)


def parse_config(values: Any, source: str, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Validate plain values.

    Args:
        values: Nested dictionaries, as YAML holds them.
        source: The file, for the message.
        overrides: The overrides that are part of the values, for the message.

    Returns:
        The validated config.

    Raises:
        ConfigError: A key is unknown or a value invalid.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = format_validation_error(error, KEYS_OF_THE_FIELD)
        raise ConfigError(f"{_describe_sources(error, source, overrides)}: {problems}") from error


def _describe_sources(error: ValidationError, source: str, overrides: tuple[str, ...]) -> str:
    """Name the overrides that the errors come from, and the file if it has a part in them."""
    names: list[str] = []
    keys = [[str(part) for part in item["loc"]] for item in error.errors()]
    for key in keys:
        if any(len(longer) > len(key) > 0 and longer[: len(key)] == key for longer in keys):
            continue  # a list whose only term is wrong is also reported as too short

        related, is_whole = find_overrides(key, overrides)
        if not is_whole:
            names.append(source)
        names += [f"override {override}" for override in related]
    return " and ".join(dict.fromkeys(names))


def strip_local_paths(config: RunConfig) -> RunConfig:
    """Remove the paths that exist only on the training machine, for the config of a model folder.

    Args:
        config: The config of a run.

    Returns:
        A copy without data folders, split and init_from.
    """
    data = config.data.model_copy(update=dict.fromkeys(("root", "phantoms", "split", "fold")))
    training = config.training.model_copy(update={"init_from": None})

    return config.model_copy(update={"data": data, "training": training})


def dump_config(config: RunConfig) -> str:
    """Write a config as YAML.

    Args:
        config: The config.

    Returns:
        YAML with every value, defaults included.
    """
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
