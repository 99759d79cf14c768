"""Turn the checkpoint of another program into a model of dsdiff: weights under our names, a config, and a model card.

Nothing in the checkpoint is run. The config is converted from the config of the training, or inferred from the weights
as far as these tell. What is assumed is noted, printed and written to the model card.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsdiff import __version__
from dsdiff.backbones import registry
from dsdiff.conditioning.network import add_backbone_prefix
from dsdiff.config.import_config import import_config
from dsdiff.config.original_network import CONTRASTS
from dsdiff.config.overrides import apply_overrides, find_config, read_config
from dsdiff.config.run import RunConfig, dump_config, load_config, parse_config, strip_local_paths
from dsdiff.diffusion.schedules import SCHEDULES
from dsdiff.errors import ModelError, OutputError
from dsdiff.model import checkpoint
from dsdiff.model.foreign_weights import ForeignWeights, select_weights
from dsdiff.model.metadata import ModelMetadata
from dsdiff.model.torch_file import TorchFile, read_torch_file
from dsdiff.originals.infer_backbone import (
    InferredBackbone,
    describe_network,
    drop_variance,
    infer_backbone,
    infer_structure,
)
from dsdiff.originals.state_dicts import convert_state_dict, identify_backbone
from dsdiff.system.output_checks import check_writable

CROP = 192  # pixels; the crop of the original recipes
BETA_TOLERANCE = 1e-5  # relative; betas are stored in float32
BACKBONE_KEYS = {"backbone", "unet_config"}  # a config of dsdiff has one of them at its top
NORMALIZATION = (
    "intensities: the network gets robust z-scores (each contrast centered on the median of its brain and divided by "
    "its robust width). Weights that were trained on volumes scaled to [-1, 1], as the original's were, run but give "
    "wrong images: fine-tune them (training.init_from)"
)


@dataclass(frozen=True)
class ImportedModel:
    """A model from the checkpoint of another program.

    Attributes:
        config: Its config.
        weights: Weights of its network, by our names.
        origin: Where in the checkpoint the weights were.
        skipped_names: Classes of objects in the checkpoint that were skipped.
        assumptions: What neither config nor weights tell, and what was changed; one line each.
    """

    config: RunConfig
    weights: dict[str, Tensor]
    origin: str
    skipped_names: tuple[str, ...]
    assumptions: tuple[str, ...]

    @property
    def n_parameters(self) -> int:
        """Count the weights.

        Returns:
            Number of values.
        """
        return sum(tensor.numel() for tensor in self.weights.values())


def import_weights(
    path: Path, config_path: Path | None, overrides: tuple[str, ...] = (), average: bool | None = None
) -> ImportedModel:
    """Import the checkpoint of another program.

    Args:
        path: The checkpoint: a file of torch.save, or safetensors.
        config_path: Config of its training, of dsdiff or of another program; None to infer it from the weights.
        overrides: key=value with dotted keys of dsdiff.
        average: True for averaged weights (EMA), False for those of the last step, None for averaged weights if the
            file has them.

    Returns:
        The model.

    Raises:
        ModelError: The checkpoint is damaged, was refused, or does not fit the config.
        ConfigError: The config is invalid.
    """
    file = read_torch_file(path)
    selected = select_weights(file, average)
    assumptions: list[str] = []
    if config_path is None:
        config = _infer_config(file, selected, overrides, assumptions)
    else:
        config = _read_config(config_path, overrides, assumptions)
        config = _adapt_structure(config, selected, assumptions)
        _check_betas(file, selected, config)

    weights = _convert_weights(file.load(selected.tensors), config, assumptions)
    return ImportedModel(config, weights, selected.origin, file.skipped_names, (*assumptions, NORMALIZATION))


def save_imported(model: ImportedModel, path: Path, config_path: Path | None, folder: Path) -> None:
    """Write an imported model as a model folder.

    Args:
        model: The model.
        path: Its checkpoint, for the model card.
        config_path: Its config, for the model card.
        folder: Folder to write.

    Raises:
        OutputError: The folder holds files, or cannot be written.
    """
    check_new_folder(folder)
    card = _model_card(model, path, config_path)
    config = dump_config(strip_local_paths(model.config))
    checkpoint.save_model(folder, model.weights, config, card, ModelMetadata(), torch.float32)


def check_new_folder(folder: Path) -> None:
    """Check that a model folder can be written without replacing anything.

    Args:
        folder: The folder.

    Raises:
        OutputError: The folder holds files, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists already and is not empty; choose another folder with -o")
    check_writable(folder)


def _read_config(path: Path, overrides: tuple[str, ...], assumptions: list[str]) -> RunConfig:
    """Read a config of dsdiff, or convert one of another program."""
    path = find_config(path)
    values = read_config(path, resolve=False)
    if isinstance(values, dict) and values.keys() & BACKBONE_KEYS:
        return load_config(path, overrides)

    imported = import_config(path)
    assumptions += imported.notes
    converted = imported.config.model_dump(mode="json")
    return parse_config(apply_overrides(converted, overrides, path), str(path))


def _adapt_structure(config: RunConfig, selected: ForeignWeights, assumptions: list[str]) -> RunConfig:
    """Set parameters that the weights tell and the config does not, or that no process uses."""
    shapes = {name: tensor.shape for name, tensor in selected.tensors.items()}
    target, params = registry.registered_name(config.backbone.target), config.backbone.params
    if identify_backbone(shapes) != target:
        return config

    structure = infer_structure(target, shapes)
    if params.get("num_classes") is not None:
        structure = {}  # the config describes the label table
    if params.get("learn_sigma") and config.build_process().out_channels == 1:
        structure["learn_sigma"] = False
    changes = {name: value for name, value in structure.items() if params.get(name) != value}
    assumptions += [f"backbone.params.{name} {value}: the weights decide" for name, value in changes.items()]

    backbone = config.backbone.model_copy(update={"params": params | changes})
    return config.model_copy(update={"backbone": backbone})


def _infer_config(
    file: TorchFile, selected: ForeignWeights, overrides: tuple[str, ...], assumptions: list[str]
) -> RunConfig:
    """Find backbone and schedule from the weights. Raises `ModelError` if they do not tell enough."""
    inferred = infer_backbone({name: tensor.shape for name, tensor in selected.tensors.items()})
    if inferred.n_contrasts != len(CONTRASTS):
        raise ModelError(
            f"{file.path}: the network takes x_t and {inferred.n_contrasts} channels, not the {len(CONTRASTS)} of "
            f"{', '.join(CONTRASTS)}; give a config with data.contrasts by --config"
        )

    betas = _load_betas(file, selected)
    process = {} if betas is None else _match_schedule(betas)
    if betas is not None and process is None:
        raise ModelError(f"{file.path} has betas of no known schedule; give the config of its training with --config")
    crop = -(-CROP // inferred.multiple) * inferred.multiple
    values = {
        "data": {"context_slices": 1, "crop": [crop, crop]},
        "conditioning": {"edges": "none"},
        "backbone": {"target": inferred.target, "params": inferred.params},
        "process": {"target": "ddpm", "params": process},
    }
    config = parse_config(apply_overrides(values, overrides, file.path), "the overrides")
    _check_heads(file.path, inferred, config)

    assumptions += inferred.assumptions
    assumptions += _describe_process(config, process or {})
    return config


def _check_heads(path: Path, inferred: InferredBackbone, config: RunConfig) -> None:
    if not inferred.head_params or config.backbone.params.keys() & set(inferred.head_params):
        return
    raise ModelError(
        f"{path} looks like backbone '{inferred.target}', but weights do not tell the number of attention heads; give "
        "the config of its training with --config, or "
        + " or ".join(f"backbone.params.{name}=N" for name in inferred.head_params)
    )


def _describe_process(config: RunConfig, stored: Mapping[str, Any]) -> list[str]:
    """Note what the weights do not tell of the process."""
    process = config.build_process()
    prediction = getattr(process, "prediction_type", None)
    lines = [f"process.params.prediction {prediction}: the weights do not tell; most networks predict eps"]
    if not stored:
        lines.append(
            "process.params: the file has no betas; assumed are those of guided-diffusion and DiT (linear, 1000 steps)"
        )
    return lines


def _load_betas(file: TorchFile, selected: ForeignWeights) -> Tensor | None:
    if selected.betas is None or len(selected.betas.shape) != 1:
        return None
    return file.load({"betas": selected.betas})["betas"].double()


def _match_schedule(betas: Tensor) -> dict[str, Any] | None:
    """Find the schedule that gives some betas; None if none does."""
    first, last, timesteps = float(betas[0]), float(betas[-1]), len(betas)
    for name, schedule in SCHEDULES.items():
        has_ends = name != "cosine"
        if has_ends and not 0 < first <= last < 1:
            continue
        if torch.allclose(schedule(first, last, timesteps), betas, rtol=BETA_TOLERANCE, atol=0):
            ends = {"beta_start": _round_float32(first), "beta_end": _round_float32(last)} if has_ends else {}
            return {"schedule": name, "timesteps": timesteps, **ends}
    return None


def _round_float32(value: float) -> float:
    """Write a number that was stored in float32 as the decimal that was meant."""
    return float(f"{value:.6g}")


def _check_betas(file: TorchFile, selected: ForeignWeights, config: RunConfig) -> None:
    """Raise `ModelError` if the file stores betas that are not those of the config."""
    betas = _load_betas(file, selected)
    alpha_bar = getattr(config.build_process(), "alpha_bar", None)
    if betas is None or alpha_bar is None:
        return

    stored_alpha_bar = (1 - betas).cumprod(0)
    if len(betas) == len(alpha_bar) - 1 and torch.allclose(alpha_bar[1:], stored_alpha_bar, rtol=1e-2, atol=1e-6):
        return
    schedule = _match_schedule(betas) or {"timesteps": len(betas)}
    changes = " ".join(f"process.params.{key}={value}" for key, value in schedule.items())
    raise ModelError(f"{file.path} was trained with another schedule than the config has: add {changes}")


def _convert_weights(weights: dict[str, Tensor], config: RunConfig, assumptions: list[str]) -> dict[str, Tensor]:
    """Give weights our names. Raises `ModelError` if they do not fit the network of the config."""
    backbone = config.meta_network().backbone
    weights, is_reduced = drop_variance(weights, config.build_process().out_channels)
    if is_reduced:
        assumptions.append("the network learned the variance of a step; its channels were left out: samplers fix it")

    names = list(weights)
    try:
        converted = convert_state_dict(weights, backbone)
    except ModelError as error:
        hint = "" if identify_backbone(names) else f"; the weights look like {describe_network(names)}"
        target = registry.registered_name(config.backbone.target)
        raise ModelError(f"{error} (the config has backbone '{target}'){hint}") from error

    for name, tensor in converted.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"the weights hold values that are not finite, first in {name}; training failed there")
    return add_backbone_prefix(converted)


def _model_card(model: ImportedModel, path: Path, config_path: Path | None) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source = "The config was inferred from the weights." if config_path is None else f"Config: {config_path.name}."
    assumptions = "\n".join(f"- {line}" for line in model.assumptions)

    return (
        f"# Weights of another program\n\n{model.n_parameters / 1e6:.2f} M parameters from {path.name} (sha256 "
        f"{digest}): {model.origin}. Imported by dsdiff {__version__}. {source} Not evaluated by dsdiff; the patients "
        "of its training are unknown, so evaluate cannot tell them from others. For research use, not for "
        f"diagnosis.\n\nWhat was assumed or changed:\n\n{assumptions}\n"
    )
