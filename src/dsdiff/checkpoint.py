"""A model folder: weights (safetensors), resolved config (YAML) and card. Nothing in it can run code.

Every file is written beside its place and renamed into it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsdiff.errors import ModelError

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "README.md"


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds. `hash`: first 12 hex digits of the SHA-256 of weights and config."""

    weights: dict[str, Tensor]
    config: str
    hash: str


def save(folder: Path, weights: dict[str, Tensor], config: str, card: str) -> None:
    """Write a model folder; floating-point weights are stored as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in weights.items()}
    _save_tensors(half, folder / WEIGHTS, {})
    (folder / CONFIG).write_text(config)
    (folder / CARD).write_text(card)


def read(folder: Path) -> ModelFolder:
    """Read a model folder, weights as float32. Raises `ModelError` where it is absent or damaged."""
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is not a model folder: it has no {name}")
    try:
        weights = {k: v.float() if v.is_floating_point() else v for k, v in load_file(folder / WEIGHTS).items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{folder / WEIGHTS} cannot be read ({error}); is the file complete?") from error
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes() + (folder / CONFIG).read_bytes())
    return ModelFolder(weights, (folder / CONFIG).read_text(), digest.hexdigest()[:12])


def save_state(path: Path, tensors: dict[str, Tensor], facts: dict[str, int | float | str]) -> None:
    """Write a training state: named tensors and a few facts."""
    _save_tensors({k: v.contiguous() for k, v in tensors.items()}, path, {"facts": json.dumps(facts)})


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, int | float | str]]:
    """Read a training state. Raises `ModelError` where it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); delete it to start this run again") from error


def _save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    beside = path.with_name(path.name + ".partial")
    beside.touch()
    mode = beside.stat().st_mode  # safetensors makes its file private; keep the user's umask
    save_file({name: tensor.detach() for name, tensor in tensors.items()}, beside, metadata)
    beside.chmod(mode)
    beside.replace(path)


def parameters(weights: dict[str, Tensor]) -> int:
    """How many numbers the weights hold."""
    return sum(torch.numel(tensor) for tensor in weights.values())
