"""A model folder: weights (safetensors), resolved config (YAML) and card. Nothing in it can run code.

Files are written beside their place and renamed into it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsdiff import folders
from dsdiff.errors import ModelError, OutputError

Facts = dict[str, int | float | str]
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "README.md"


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds. `hash`: first 12 hex digits of the SHA-256 of weights and config.

    facts: what the training noted, such as the hash of the split and the fold that was held out.
    """

    weights: dict[str, Tensor]
    config: str
    hash: str
    facts: Facts


def save(
    folder: Path, weights: dict[str, Tensor], config: str, card: str, facts: Facts, dtype: torch.dtype = torch.float16
) -> None:
    """Write a model folder, whole or not at all; floating-point weights are stored as `dtype`.

    Raises `OutputError` where it cannot be written.
    """
    stored = {k: (v.to(dtype) if v.is_floating_point() else v).contiguous().cpu() for k, v in weights.items()}
    with folders.whole(folder) as unfinished:
        _save_tensors(stored, unfinished / WEIGHTS, facts)
        (unfinished / CONFIG).write_text(config)
        (unfinished / CARD).write_text(card)


def read(folder: Path) -> ModelFolder:
    """Read a model folder, weights as float32. Raises `ModelError` where it is absent or damaged."""
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is not a model folder: it has no {name}")
    half, facts = read_state(folder / WEIGHTS)
    weights = {k: v.float() if v.is_floating_point() else v for k, v in half.items()}
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes() + (folder / CONFIG).read_bytes())
    return ModelFolder(weights, (folder / CONFIG).read_text(), digest.hexdigest()[:12], facts)


def save_state(path: Path, tensors: dict[str, Tensor], facts: Facts) -> None:
    """Write a training state: named tensors and a few facts. Raises `OutputError` where it cannot be written."""
    _save_tensors({k: v.contiguous() for k, v in tensors.items()}, path, facts)


def read_state(path: Path) -> tuple[dict[str, Tensor], Facts]:
    """Read named tensors and facts. Raises `ModelError` where the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); is the file complete?") from error


def _save_tensors(tensors: dict[str, Tensor], path: Path, facts: Facts) -> None:
    beside = path.with_name(path.name + ".partial")
    try:
        beside.touch()
        mode = beside.stat().st_mode  # safetensors makes its file private; keep the user's umask
        apart = {name: tensor.detach().clone() for name, tensor in tensors.items()}  # tied weights share memory
        save_file(apart, beside, {"facts": json.dumps(facts)})
        beside.chmod(mode)
        beside.replace(path)
    except (SafetensorError, OSError) as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}") from error


def parameters(weights: dict[str, Tensor]) -> int:
    """How many numbers the weights hold."""
    return sum(torch.numel(tensor) for tensor in weights.values())
