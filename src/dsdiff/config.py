"""RunConfig: one YAML is one run. Composes the parts' configs and checks across parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError, field_serializer, field_validator, model_validator
from torch import nn
from yaml import YAMLError

from dsdiff.backbones import registry
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.network import Conditioner, Network
from dsdiff.data.settings import DataConfig
from dsdiff.diffusion import registry as diffusion
from dsdiff.diffusion.process import NoiseProcess
from dsdiff.diffusion.samplers import Sampler
from dsdiff.errors import ConfigError
from dsdiff.parts import Part, Target, explain
from dsdiff.types import Backbone

_INSTALLED = Path(__file__).parent / "assets" / "configs"  # in a wheel; a source tree has them at its top
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "configs"


class LossConfig(Part):
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


class TrainingConfig(Part):
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
    judge: Literal["loss", "psnr", "ssim", "auc_brain", "auc_tumour", "gain"] = "loss"
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
        if self.judge != "loss" and not self.validate_volumes:
            raise ValueError(f"judge '{self.judge}' is a score of volumes: set validate_volumes to 1 or more")
        return self


class RunConfig(Part):
    """One run."""

    seed: int = Field(2024, ge=0)
    data: DataConfig = DataConfig()
    conditioning: ConditioningConfig = ConditioningConfig()
    backbone: registry.BackboneTarget = registry.DEFAULT
    process: Target = Target(target="bridge")
    sampler: Target | None = None  # None: the usual one of the process
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
        backbone = registry.build(self.backbone, self.conditioning.layout(self.data.contrasts, self.data.slab))
        params, wanted = registry.parse(self.backbone), self.build_process().out_channels
        if params is not None and params.outputs != wanted:
            raise ConfigError(
                f"backbone '{self.backbone.target}' gives {params.outputs} channels, process '{self.process.target}' "
                f"takes {wanted}: see out_channels and learn_sigma"
            )
        if params is None and wanted != 1:
            raise ConfigError(
                f"process '{self.process.target}' takes {wanted} channels (process.params.spread), and somebody else's "
                f"backbone '{self.backbone.target}' gives one"
            )
        self._check_crop(cast(Backbone, backbone).multiple, f"backbone '{self.backbone.target}' asks for it")
        return backbone

    def build_network(self) -> Network:
        """A fresh backbone with its conditioner. Raises `ConfigError` where they and the data do not fit."""
        backbone = self.build_backbone()
        network = Network(backbone, Conditioner(self.conditioning, len(self.data.contrasts), self.data.slab))
        self._check_crop(network.multiple, "backbone and conditioning.encoder_params ask for it")
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


def ready(folder: str = "") -> list[str]:
    """Names of the configs that come with dsdiff, or of those in a folder of theirs."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def find(name_or_path: str | Path) -> Path:
    """A config file by path, or one that comes with dsdiff by its name. Raises `ConfigError` where there is neither."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    known = {found.stem: found for found in sorted(CONFIGS.rglob("*.yaml"))}
    if str(name_or_path) not in known:
        raise ConfigError(f"{path}: no such config file, nor one of: {', '.join(known)}")
    return known[str(name_or_path)]


def load(name_or_path: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a YAML and apply `key=value` overrides (dotted keys). Paths in it are relative to where the command runs.

    `backbone=FILE` takes the whole backbone block of another YAML. Files that come with dsdiff go by their name.

    Raises `ConfigError` that names every unknown key and every impossible value.
    """
    path = find(name_or_path)
    return parse(read(path, overrides), str(path))


def read(path: Path, overrides: tuple[str, ...] = ()) -> Any:
    """The plain values of a YAML with its overrides, not yet validated. Raises `ConfigError`."""
    if bad := [item for item in overrides if "=" not in item]:
        raise ConfigError(f"override '{bad[0]}' is not of the form key=value (as in training.steps=100)")
    swaps = [item for item in overrides if item.startswith("backbone=")]
    others = [item for item in overrides if item not in swaps]
    try:
        given: Any = OmegaConf.load(path)
        for item in swaps:
            given = _with_backbone(given, find(item.split("=", 1)[1]))
        _refuse_parts_of_what_is_off(given, others)
        changes = OmegaConf.from_dotlist(others)
        for key in map(str, changes if isinstance(given, DictConfig) else ()):
            if OmegaConf.is_list(changes[key]):
                given.pop(key, None)  # a list takes the place of whatever was there, as of a single term of the loss
            elif OmegaConf.is_list(given.get(key)):
                raise ConfigError(f"{path} has a list of {key}: a change of it is the whole list, as '{key}=[{{...}}]'")
        return OmegaConf.to_container(OmegaConf.merge(given, changes), resolve=False)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a config ({str(error).splitlines()[0]})") from error


def _refuse_parts_of_what_is_off(given: Any, overrides: Sequence[str]) -> None:
    """Raise `ConfigError` for a change within a block that is false: the block's defaults would come on with it."""
    off = {key for key, value in (item.split("=", 1) for item in overrides) if value == "false"}
    for key in (item.split("=", 1)[0] for item in overrides):
        parts = key.split(".")
        for block in (".".join(parts[:n]) for n in range(1, len(parts))):
            if block in off or OmegaConf.select(given, block) is False:
                raise ConfigError(
                    f"{block} is false, and {key} would turn all of its defaults on; turn off one by one what is not "
                    "wanted, as in data.augment.flip.probability=0"
                )


def _with_backbone(config: Any, file: Path) -> DictConfig:
    """The config with the whole backbone block of another YAML."""
    names = ("backbone", "unet_config")
    try:
        given = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError) as error:
        raise ConfigError(f"backbone={file}: not a config ({str(error).splitlines()[0]})") from error
    blocks = [block for name, block in given.items() if name in names] if isinstance(given, dict) else []
    if len(blocks) != 1:
        raise ConfigError(f"backbone={file}: the file must have one backbone block, it has {len(blocks)}")
    kept = {name: block for name, block in config.items() if name not in names}
    return OmegaConf.create({**kept, "backbone": blocks[0]})


def parse(values: Any, where: str) -> RunConfig:
    """Validate plain values. Raises `ConfigError`."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error)}") from error


def portable(config: RunConfig) -> RunConfig:
    """The config without the places that only the machine it was trained on has: what goes into a model folder."""
    data = config.data.model_copy(update=dict.fromkeys(("root", "phantoms", "split", "fold")))
    return config.model_copy(update={"data": data, "training": config.training.model_copy(update={"init_from": None})})


def dump(config: RunConfig) -> str:
    """The resolved config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
