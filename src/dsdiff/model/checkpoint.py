"""Files of trained models and of training states: safetensors with a checksum and metadata.

A model folder holds weights (safetensors), the resolved config (YAML) and a model card. No file can run code. Files are
written under a temporary name and then renamed. A training state keeps its predecessor, in case the newest is damaged.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dsdiff.errors import ModelError, OutputError
from dsdiff.io.file_format import check_presence, describe_placeholder
from dsdiff.model.metadata import ModelMetadata
from dsdiff.system import atomic

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.yaml"
CARD_FILE = "README.md"
METADATA_KEY = "metadata"  # of the safetensors header; its value is JSON
CHECKSUM_KEY = "sha256"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ModelFolder:
    """Contents of a model folder.

    Attributes:
        weights: By parameter name, float32.
        config: YAML.
        hash: First 12 hex digits of the SHA-256 of weights and config.
        metadata: Record of the training.
    """

    weights: Tensors
    config: str
    hash: str
    metadata: ModelMetadata


def save_model(
    folder: Path,
    weights: Tensors,
    config: str,
    card: str,
    metadata: ModelMetadata,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a model folder, all of it or nothing.

    Args:
        folder: Folder to write; an older model folder is replaced.
        weights: By parameter name.
        config: YAML.
        card: Model card in Markdown.
        metadata: Record of the training.
        dtype: Type in which floating-point weights are stored.

    Raises:
        OutputError: The folder cannot be written, or holds files but no model.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / WEIGHTS_FILE).is_file():
        raise OutputError(f"{folder} holds files but no model; nothing was written, choose another folder")

    stored = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in weights.items()
    }
    with atomic.atomic_dir(folder) as tmp_folder:
        _save_tensors(stored, tmp_folder / WEIGHTS_FILE, metadata.to_dict())
        (tmp_folder / CONFIG_FILE).write_text(config, encoding="utf-8")
        (tmp_folder / CARD_FILE).write_text(card, encoding="utf-8")


def read_model(folder: Path) -> ModelFolder:
    """Read a model folder.

    Args:
        folder: Folder that `save_model` wrote.

    Returns:
        Its contents; floating-point weights as float32.

    Raises:
        ModelError: The folder is no model folder, or a file is damaged.
        InputError: A file is a link without content.
    """
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if (folder / name).is_symlink():
            check_presence(folder / name)
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is not a model folder: it has no {name}")

    stored, fields = read_state(folder / WEIGHTS_FILE)
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    metadata = ModelMetadata.from_dict(fields, str(folder))

    try:
        config = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG_FILE} cannot be read ({error})") from error
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes() + (folder / CONFIG_FILE).read_bytes())

    return ModelFolder(weights, config, digest.hexdigest()[:12], metadata)


def read_metadata(folder: Path) -> ModelMetadata:
    """Read the metadata of a model folder without its weights.

    Args:
        folder: Model folder.

    Returns:
        The record; an empty one if the folder has no weights.

    Raises:
        ModelError: The weights file or the record is damaged.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        return ModelMetadata()

    try:
        with safe_open(path, "pt") as file:
            fields = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); is the file complete?") from error

    return ModelMetadata.from_dict(fields, str(folder))


def save_state(path: Path, tensors: Tensors, fields: Mapping[str, Any]) -> None:
    """Write a training state; the file that was there becomes `previous_path(path)`.

    Args:
        path: File to write.
        tensors: By name.
        fields: Plain values that JSON can hold.

    Raises:
        OutputError: The file cannot be written; the file that was there stays.
    """
    _save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, path, fields, previous_path(path))


def previous_path(path: Path) -> Path:
    """Name the file that holds the previous state.

    Args:
        path: File of the newest state.

    Returns:
        File of the state before it.
    """
    return path.with_stem(path.stem + "-previous")


def read_state(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read named tensors and the values stored with them.

    Args:
        path: File that `save_state` or `save_model` wrote.

    Returns:
        Tensors by name, and plain values by name.

    Raises:
        ModelError: The file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)

        text = header.get(METADATA_KEY, "{}")
        if CHECKSUM_KEY in header and header[CHECKSUM_KEY] != _checksum(tensors, text):
            raise ValueError("its checksum does not match its contents")

        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f"its metadata is {fields!r:.40}, not a mapping")

        return tensors, fields
    except (SafetensorError, OSError, ValueError) as error:
        placeholder = describe_placeholder(path) if path.is_file() else None
        raise ModelError(placeholder or f"{path} cannot be read ({error}); is the file complete?") from error


def _save_tensors(tensors: Tensors, path: Path, fields: Mapping[str, Any], previous: Path | None = None) -> None:
    unshared = {name: tensor.detach().clone() for name, tensor in tensors.items()}  # tied weights share memory
    text = json.dumps(fields)

    with atomic.atomic_file(path) as tmp_path:
        tmp_path.touch()
        mode = tmp_path.stat().st_mode  # safetensors makes its file private; keep the user's umask
        try:
            save_file(unshared, tmp_path, {METADATA_KEY: text, CHECKSUM_KEY: _checksum(unshared, text)})
        except SafetensorError as error:
            raise OutputError(f"{path} cannot be written: {error}") from error
        tmp_path.chmod(mode)

        with tmp_path.open("rb") as file:
            os.fsync(file.fileno())  # before the rename: a power cut must not leave the new name on old bytes
        if previous is not None and path.exists():
            path.replace(previous)


def _checksum(tensors: Tensors, text: str) -> str:
    """SHA-256 of a text, and of names, types, shapes and bytes of tensors on the CPU."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
