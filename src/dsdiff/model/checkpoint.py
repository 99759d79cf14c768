"""A model folder: weights (safetensors), resolved config (YAML) and card; and the state that a training resumes from.

Nothing in them can run code. Files are written beside their place and renamed into it, and keep the checksum of what
they hold; of states the one before stays, for the day on which the newest turns out damaged.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsdiff.errors import ModelError, OutputError
from dsdiff.system import atomic

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

    Raises `OutputError` where it cannot be written, or something stands there that is no model folder.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / WEIGHTS).is_file():
        raise OutputError(f"{folder} holds files and is no model folder; it is left alone (choose another place)")
    stored = {k: (v.to(dtype) if v.is_floating_point() else v).contiguous().cpu() for k, v in weights.items()}
    with atomic.whole(folder) as unfinished:
        _save_tensors(stored, unfinished / WEIGHTS, facts)
        (unfinished / CONFIG).write_text(config, encoding="utf-8")
        (unfinished / CARD).write_text(card, encoding="utf-8")


def read(folder: Path) -> ModelFolder:
    """Read a model folder, weights as float32. Raises `ModelError` where it is absent or damaged."""
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is not a model folder: it has no {name}")
    half, facts = read_state(folder / WEIGHTS)
    if not isinstance(facts, dict):
        raise ModelError(f"{folder / WEIGHTS} does not tell facts but {facts!r:.40}")
    try:
        config = (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be read ({error})") from error
    weights = {k: v.float() if v.is_floating_point() else v for k, v in half.items()}
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes() + (folder / CONFIG).read_bytes())
    return ModelFolder(weights, config, digest.hexdigest()[:12], facts)


def facts_of(folder: Path) -> Facts:
    """What the training of a model folder noted, its weights left unread; nothing where there is none, or damaged."""
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return dict(json.loads((file.metadata() or {}).get("facts", "{}")))
    except (SafetensorError, OSError, ValueError, TypeError):
        return {}


def save_state(path: Path, tensors: dict[str, Tensor], facts: Facts) -> None:
    """Write a training state: named tensors and a few facts; the one that stood there becomes `previous(path)`.

    Raises `OutputError` where it cannot be written: then what stood there stands there still.
    """
    _save_tensors({k: v.contiguous() for k, v in tensors.items()}, path, facts, previous(path))


def previous(path: Path) -> Path:
    """Where the state before the one at `path` is kept."""
    return path.with_stem(path.stem + "-previous")


def read_state(path: Path) -> tuple[dict[str, Tensor], Facts]:
    """Read named tensors and facts. Raises `ModelError` where the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        facts = header.get("facts", "{}")
        if "sha256" in header and header["sha256"] != _checksum(tensors, facts):  # absent before there was one
            raise ValueError("its checksum is another")
        return tensors, json.loads(facts)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); is the file complete?") from error


def _save_tensors(tensors: dict[str, Tensor], path: Path, facts: Facts, older: Path | None = None) -> None:
    apart = {name: tensor.detach().clone() for name, tensor in tensors.items()}  # tied weights share memory
    told = json.dumps(facts)
    with atomic.whole_file(path) as beside:
        beside.touch()
        mode = beside.stat().st_mode  # safetensors makes its file private; keep the user's umask
        try:
            save_file(apart, beside, {"facts": told, "sha256": _checksum(apart, told)})
        except SafetensorError as error:
            raise OutputError(f"{path} cannot be written: {error}") from error
        beside.chmod(mode)
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # before the rename: a power cut must not leave the new name on old bytes
        if older is not None and path.exists():
            path.replace(older)


def _checksum(tensors: dict[str, Tensor], facts: str) -> str:
    """SHA-256 of facts, and of names, types, shapes and bytes of tensors on the CPU."""
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
