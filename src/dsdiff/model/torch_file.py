"""Read checkpoints of other programs as data: files of torch.save (both formats), and safetensors.

A file of torch.save is a pickle that describes tensors, and storages that hold their values. The pickle is read without
running anything (see `pickle_reader`). Every size that it claims is compared with the bytes of the file. Values are
read later, and only of the tensors that are needed.
Source: the formats as `torch.serialization` writes them.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dsdiff.errors import ModelError
from dsdiff.io.file_format import check_presence, describe_placeholder
from dsdiff.model.pickle_names import RefusedPickleError
from dsdiff.model.pickle_reader import READ_ERRORS, PickleReader
from dsdiff.model.stored_tensor import BUILDERS, Storage, StoredTensor, load_storage

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first value of a file of torch.save before torch 1.6
LEGACY_PROTOCOL = 1001
MAX_SHARING = 2  # bytes of all tensors over the bytes of the file; tied weights make it more than 1
MAX_REASON_LENGTH = 120  # characters of the reason in an error message
SAFETENSORS_DTYPES = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U8": torch.uint8,
}
FILE_ERRORS = (*READ_ERRORS, OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, SafetensorError)

StorageReader = Callable[[Storage], bytes]


@dataclass(frozen=True)
class TorchFile:
    """A checkpoint of another program.

    Attributes:
        path: The file.
        contents: Plain values, with a `StoredTensor` for every tensor and placeholders for other objects.
        skipped_names: Classes of the objects that were skipped.
        open_storages: Opens the file for reading the bytes of storages.
    """

    path: Path
    contents: Any
    skipped_names: tuple[str, ...]
    open_storages: Callable[[], AbstractContextManager[StorageReader]]

    def load(self, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Read the values of some tensors.

        Args:
            stored: Tensors of `contents`, by name.

        Returns:
            Tensors on the CPU, by name. Tensors of one storage share memory.

        Raises:
            ModelError: A storage is damaged, or the tensors claim more bytes than the file has.
        """
        storages = {tensor.storage.key: tensor.storage for tensor in stored.values()}
        file_bytes = self.path.stat().st_size
        storage_bytes = sum(storage.n_bytes for storage in storages.values())
        tensor_bytes = sum(tensor.n_bytes for tensor in stored.values())
        if storage_bytes > file_bytes or tensor_bytes > MAX_SHARING * file_bytes:
            raise ModelError(
                f"{self.path} has {file_bytes} bytes, but its weights claim {max(storage_bytes, tensor_bytes)}; is the "
                "file complete?"
            )

        with explain_read_errors(self.path), self.open_storages() as read_storage:
            data = {key: bytearray(read_storage(storage)) for key, storage in storages.items()}
            return {name: tensor.view(data[tensor.storage.key]) for name, tensor in stored.items()}


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turn errors of reading into one line for the user.

    Args:
        path: The checkpoint, for the message.

    Yields:
        Nothing.

    Raises:
        ModelError: The file is damaged, or was refused.
    """
    try:
        yield
    except RefusedPickleError as error:
        raise ModelError(
            f"{path} was refused: {error}; nothing was run. A file that holds only state_dict() is needed"
        ) from error
    except FILE_ERRORS as error:
        reason = " ".join(str(error).split())[:MAX_REASON_LENGTH] or type(error).__name__
        raise ModelError(f"{path} cannot be read ({reason}); is the file complete?") from error


def read_torch_file(path: Path) -> TorchFile:
    """Read what a checkpoint describes; values stay in the file.

    Args:
        path: File of torch.save, or safetensors.

    Returns:
        The checkpoint.

    Raises:
        ModelError: The file is of another format, is damaged, or names something that could run code.
        InputError: The path is a link without content.
    """
    if path.is_symlink():
        check_presence(path)
    if not path.is_file():
        raise ModelError(f"{path} is not a file; a checkpoint (.ckpt, .pt, .pth or .safetensors) is needed")

    with explain_read_errors(path):
        with path.open("rb") as file:
            start = file.read(9)
        if start.startswith(ZIP_MAGIC):
            return _read_zip(path)
        if start[8:] == b"{":
            return _read_safetensors(path)
        if start.startswith(PICKLE_MAGIC):
            return _read_legacy(path)
    raise ModelError(describe_placeholder(path) or f"{path} is neither a file of torch.save nor safetensors")


class _StorageIndex(dict[str, Storage]):
    """The storages that a pickle names, by key."""

    def add(self, identifier: Any) -> tuple[Storage, torch.dtype]:
        storage, dtype = load_storage(identifier)
        if self.setdefault(storage.key, storage).n_bytes != storage.n_bytes:
            raise ValueError("a storage has two sizes")
        return storage, dtype


def _read_zip(path: Path) -> TorchFile:
    storages = _StorageIndex()
    with zipfile.ZipFile(path) as archive:
        root = _find_root(archive.namelist())
        if f"{root}byteorder" in archive.namelist() and _read_entry(archive, f"{root}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")

        pickle_file = BytesIO(_read_entry(archive, f"{root}data.pkl"))
        reader = PickleReader(pickle_file, BUILDERS, storages.add)
        contents = reader.read()

        for storage in storages.values():
            entry = archive.getinfo(f"{root}data/{storage.key}")
            if storage.n_bytes > entry.file_size:
                raise ValueError(f"a storage claims {storage.n_bytes} bytes and has {entry.file_size}")

    return TorchFile(path, contents, tuple(reader.skipped_names), partial(_open_zip, path, f"{root}data/"))


def _find_root(names: list[str]) -> str:
    """Find the folder of the archive that holds the pickle."""
    if len(set(names)) < len(names):
        raise ValueError("two entries of the archive have one name")
    if any(name.endswith("/constants.pkl") for name in names):
        raise RefusedPickleError("it is a TorchScript program")

    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"the archive has {len(pickles)} entries named data.pkl; torch.save writes one")
    return pickles[0].removesuffix("data.pkl")


@contextmanager
def _open_zip(path: Path, folder: str) -> Iterator[StorageReader]:
    with zipfile.ZipFile(path) as archive:
        yield lambda storage: _read_entry(archive, folder + storage.key)


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read an entry that is not compressed. torch.save never compresses, and a small entry could expand greatly."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ValueError("an entry of the archive is compressed")
    if entry.file_size > Path(str(archive.filename)).stat().st_size:
        raise ValueError("an entry of the archive claims more bytes than the file has")

    return archive.read(entry)


def _read_legacy(path: Path) -> TorchFile:
    storages = _StorageIndex()
    with path.open("rb") as file:
        magic, protocol, system = (PickleReader(file, BUILDERS, storages.add).read() for _ in range(3))
        if (magic, protocol) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
            raise ValueError("it is a pickle, but not one of torch.save")
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise ValueError("its numbers are big-endian")

        reader = PickleReader(file, BUILDERS, storages.add)
        contents = reader.read()
        keys = PickleReader(file, BUILDERS, storages.add).read()
        positions = _find_storages(file, keys, storages, path.stat().st_size)

    return TorchFile(path, contents, tuple(reader.skipped_names), partial(_open_legacy, path, positions))


def _find_storages(file: BufferedIOBase, keys: Any, storages: Mapping[str, Storage], file_bytes: int) -> dict[str, int]:
    """Find where the values of each storage begin; their number precedes them."""
    if not isinstance(keys, list) or any(key not in storages for key in keys) or len(set(keys)) != len(storages):
        raise ValueError("its list of storages does not match its tensors")

    positions = {}
    for key in keys:
        count = file.read(8)
        positions[key] = file.tell()
        numel = int.from_bytes(count, "little")
        if len(count) < 8 or numel != storages[key].numel or positions[key] + storages[key].n_bytes > file_bytes:
            raise ValueError(f"a storage claims {storages[key].n_bytes} bytes, which the file does not have")
        file.seek(storages[key].n_bytes, 1)
    return positions


@contextmanager
def _open_legacy(path: Path, positions: Mapping[str, int]) -> Iterator[StorageReader]:
    with path.open("rb") as file:

        def read_storage(storage: Storage) -> bytes:
            file.seek(positions[storage.key])
            return file.read(storage.n_bytes)

        yield read_storage


def _read_safetensors(path: Path) -> TorchFile:
    contents = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            values = file.get_slice(name)
            contents[name] = _describe_contiguous(name, tuple(values.get_shape()), values.get_dtype())
    return TorchFile(path, contents, (), partial(_open_safetensors, path))


def _describe_contiguous(name: str, shape: tuple[int, ...], dtype_name: str) -> StoredTensor:
    dtype = SAFETENSORS_DTYPES[dtype_name]
    template = torch.empty(shape, dtype=dtype, device="meta")
    storage = Storage(name, template.numel(), template.numel() * dtype.itemsize)
    return StoredTensor(storage, dtype, shape, template.stride())


@contextmanager
def _open_safetensors(path: Path) -> Iterator[StorageReader]:
    with safe_open(path, "pt") as file:
        yield lambda storage: file.get_tensor(storage.key).reshape(-1).view(torch.uint8).numpy().tobytes()
