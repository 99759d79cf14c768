"""RunConfig: one YAML is one run. Composes the parts' configs and checks across parts."""

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from omegaconf import OmegaConf
from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator
from torch import nn

from dsdiff.backbones import registry
from dsdiff.conditioning import disentangle
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.network import Conditioner, Network
from dsdiff.config import overrides as overriding
from dsdiff.data.settings import TARGET, DataConfig
from dsdiff.diffusion import registry as diffusion
from dsdiff.diffusion.process import NoiseProcess
from dsdiff.diffusion.samplers import Sampler
from dsdiff.errors import ConfigError
from dsdiff.schema import ConfigModel, TargetConfig, format_validation_error
from dsdiff.types import Backbone


class LossConfig(ConfigModel):
    """One term of the loss, each voxel weighted by what it is.

    charbonnier, l1 and l2 judge what the network predicts; ssim and gradient judge the T1ce that it stands for, edges
    whether its edges run along those of the start, but for what enhances, ranking whether what enhances (in patients
    with a segmentation) is above the rest of its slice, and above the slices of the batch where nothing does.
    weight: of the term in the sum. epsilon: of charbonnier alone, where it turns from quadratic to linear (1.0).
    Voxels outside the brain count nothing; of tumour and enhancing tumour (where a segmentation exists) `tumour` and
    `enhancing` times as much as others; ranking judges no voxel of the enhancing tumour, but those it is compared with.
    """

    target: Literal["charbonnier", "l1", "l2", "ssim", "gradient", "edges", "ranking"] = "charbonnier"
    weight: float = Field(1.0, gt=0)
    epsilon: float | None = Field(None, gt=0)
    tumour: float = Field(3.0, gt=0)
    enhancing: float = Field(6.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _epsilon_is_charbonniers(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("target", "charbonnier") != "charbonnier":
            return values
        return {"epsilon": 1.0} | values

    @model_validator(mode="after")
    def _and_no_others(self) -> "LossConfig":
        if (self.epsilon is None) == (self.target == "charbonnier"):
            raise ValueError(f"epsilon is {self.epsilon}; charbonnier needs one and the others, as {self.target}, none")
        return self


class TrainingConfig(ConfigModel):
    """steps counts optimiser steps, each of `batch_size * accumulate` slices in every process; `warmup` of them raise
    the rate.

    init_from: a model folder whose weights the training begins with (see `training.finetune`).
    ema: how much of the average of the weights each step keeps; of several, the model is the one that validates best.
    strategy: how processes share the work: ddp averages gradients, fsdp shares out the weights too; auto takes ddp
    where torchrun started several. precision: auto takes bf16 where the device has it; fp16 scales the loss.
    compile: by torch.compile, on CUDA.
    validate_volumes: how many of the held-out patients are also synthesised whole at every validation, and scored.
    judge: what the best weights are best at: the loss on fixed slices, or a mean score of these volumes. patience:
    validations without a better one after which the training ends.
    tensorboard: curves and pictures for TensorBoard too.
    """

    steps: int = Field(4000, ge=1)
    batch_size: int = Field(6, ge=1)
    accumulate: int = Field(1, ge=1)
    lr: float = Field(3e-4, gt=0)
    warmup: int = Field(200, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    init_from: Path | None = None
    ema: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field((0.999,), min_length=1)  # one alone needs no list
    strategy: Literal["auto", "single", "ddp", "fsdp"] = "auto"
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    compile: bool = False
    validate_every: int = Field(500, ge=1)
    validate_volumes: int = Field(0, ge=0)
    select_by: Literal["loss", "psnr", "ssim", "auc_brain", "auc_tumour", "gain"] = "loss"
    patience: int | None = Field(None, ge=1)
    save_every: int = Field(250, ge=1)
    tensorboard: bool = False

    @field_validator("ema", mode="before")
    @classmethod
    def _one_decay_needs_no_list(cls, decays: Any) -> Any:
        return [decays] if isinstance(decays, int | float) else decays

    @field_serializer("ema", when_used="json")
    def _nor_is_written_as_one(self, decays: tuple[float, ...]) -> Any:
        return decays[0] if len(decays) == 1 else list(decays)

    @model_validator(mode="after")
    def _decays_differ_and_volumes_are_judged(self) -> "TrainingConfig":
        if len(set(self.ema)) < len(self.ema):
            raise ValueError(f"ema {list(self.ema)} names a decay twice")
        if self.select_by != "loss" and not self.validate_volumes:
            raise ValueError(f"select_by '{self.select_by}' is a score of volumes: set validate_volumes to 1 or more")
        return self


class RunConfig(ConfigModel):
    """One run."""

    seed: int = Field(2024, ge=0, lt=2**63)
    data: DataConfig = DataConfig()
    conditioning: ConditioningConfig = ConditioningConfig()
    backbone: registry.BackboneTarget = registry.DEFAULT
    process: TargetConfig = TargetConfig(target="bridge")
    sampler: TargetConfig | None = None  # None: the usual one of the process
    loss: tuple[LossConfig, ...] = Field((LossConfig(),), min_length=1)  # their sum; one alone needs no list
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _unet_config_means_backbone(cls, values: Any) -> Any:
        if isinstance(values, dict) and "unet_config" in values:
            if "backbone" in values:
                raise ValueError("backbone and unet_config are two names of one block; give one of them")
            values = {("backbone" if key == "unet_config" else key): value for key, value in values.items()}
        return values

    @field_validator("loss", mode="before")
    @classmethod
    def _one_term_needs_no_list(cls, terms: Any) -> Any:
        return [terms] if isinstance(terms, dict) else terms

    @field_serializer("loss", when_used="json")
    def _nor_is_written_as_one(self, terms: tuple[LossConfig, ...]) -> Any:
        plain = [term.model_dump(mode="json") for term in terms]
        return plain[0] if len(plain) == 1 else plain

    @model_validator(mode="after")
    def _the_target_is_what_agent_brightens(self) -> "RunConfig":
        if self.data.target != TARGET:
            raise ValueError(
                f"data.target is '{self.data.target}'; what is synthesised and scored here is {TARGET} alone"
            )
        return self

    @model_validator(mode="after")
    def _process_and_sampler_fit(self) -> "RunConfig":
        self.build_sampler()
        return self

    @model_validator(mode="after")
    def _features_of_several_are_compared(self) -> "RunConfig":
        if len(self.data.contrasts) == 1 and any(
            term.target == "common_distinct" for term in self.conditioning.disentangle
        ):
            raise ValueError("disentangle target 'common_distinct' compares contrasts; data.contrasts has one")
        return self

    @model_validator(mode="after")
    def _a_style_that_is_told_is_the_targets(self) -> "RunConfig":
        if self.conditioning.style != "none" and self.data.target_style != "own":
            raise ValueError(
                f"conditioning.style '{self.conditioning.style}' tells the style of each target; with "
                f"data.target_style '{self.data.target_style}' all have one: set it to own"
            )
        return self

    def build_backbone(self) -> nn.Module:
        """A fresh backbone. Raises `ConfigError` where backbone and data do not fit."""
        backbone = registry.build(
            self.backbone, self.conditioning.layout(self.data.contrasts, self.data.context_slices)
        )
        params, wanted = registry.parse(self.backbone), self.build_process().out_channels
        if params is not None and params.outputs != wanted:
            raise ConfigError(
                f"backbone '{self.backbone.target}' gives {params.outputs} channels, process '{self.process.target}' "
                f"takes {wanted}: see out_channels and learn_sigma"
            )
        if params is None and wanted != 1:
            raise ConfigError(
                f"process '{self.process.target}' takes {wanted} channels (process.params.predict_error), and somebody else's "
                f"backbone '{self.backbone.target}' gives one"
            )
        self._check_crop(cast(Backbone, backbone).multiple, f"backbone '{self.backbone.target}' asks for it")
        return backbone

    def build_network(self) -> Network:
        """A fresh backbone with its conditioner. Raises `ConfigError` where they and the data do not fit."""
        backbone = self.build_backbone()
        network = Network(backbone, Conditioner(self.conditioning, len(self.data.contrasts), self.data.context_slices))
        self._check_crop(network.multiple, "backbone and conditioning.encoder_params ask for it")
        told = self.conditioning.encoder != "none" or disentangle.PAIRS.keys() & set(getattr(backbone, "features", ()))
        if self.conditioning.disentangle and not told:
            raise ConfigError(
                f"conditioning.disentangle finds no shared and specific features in backbone '{self.backbone.target}': "
                "set conditioning.encoder, or take disc_unet or ds_unet"
            )
        return network

    def _check_crop(self, multiple: int, why: str) -> None:
        if any(size % multiple for size in self.data.crop):
            raise ConfigError(f"data.crop {list(self.data.crop)} must be multiples of {multiple}: {why}")

    def sketch(self) -> Network:
        """The network without its numbers (torch's meta device), for counting; someone else's class gets numbers.

        Raises what `build_network` raises.
        """
        if registry.is_ours(self.backbone):
            with torch.device("meta"):
                return self.build_network().to("meta")  # for what a library of a backbone's put elsewhere
        return self.build_network()  # may compute while it is built

    def build_process(self) -> NoiseProcess:
        """The noise process."""
        return diffusion.build_process(self.process.target, self.process.params)

    def build_sampler(self) -> Sampler:
        """The sampler that goes with the process."""
        name, params = (self.sampler.target, self.sampler.params) if self.sampler else (None, {})
        return diffusion.build_sampler(name, params, self.build_process(), self.process.target)


def load(name_or_path: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a YAML and apply `key=value` overrides (dotted keys). Paths in it are relative to where the command runs.

    `backbone=FILE` takes the whole backbone block of another YAML. Files that come with dsdiff go by their name.
    Another target of process, sampler or loss begins with that one's own defaults.

    Raises `ConfigError` that names every unknown key and every impossible value.
    """
    path = overriding.find(name_or_path)
    return parse(overriding.read(path, overrides), str(path))


def parse(values: Any, where: str) -> RunConfig:
    """Validate plain values. Raises `ConfigError`."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {format_validation_error(error)}") from error


def portable(config: RunConfig) -> RunConfig:
    """The config without the places that only the machine it was trained on has: what goes into a model folder."""
    data = config.data.model_copy(update=dict.fromkeys(("root", "phantoms", "split", "fold")))
    return config.model_copy(update={"data": data, "training": config.training.model_copy(update={"init_from": None})})


def dump(config: RunConfig) -> str:
    """The resolved config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
