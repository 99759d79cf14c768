"""Tensors of a checkpoint before their values are read, and the functions that build them from a pickle.

A pickle of torch.save names a function of torch for every tensor. `BUILDERS` has a function of ours for each of these
names. All of them only describe: they check what the pickle claims, and neither allocate memory nor call torch.
Source: the arguments of the functions in `torch._utils`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsdiff.model.pickle_names import RefusedPickleError, SkippedGlobal

STORAGE_DTYPES = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
    "torch.UntypedStorage": torch.uint8,
    "torch.storage.UntypedStorage": torch.uint8,
}
DTYPES = {str(dtype): dtype for dtype in STORAGE_DTYPES.values()}  # "torch.float32" -> its dtype


@dataclass(frozen=True)
class Storage:
    """A run of bytes in a checkpoint.

    Attributes:
        key: Its name in the file.
        numel: Number of values.
        n_bytes: Number of bytes.
    """

    key: str
    numel: int
    n_bytes: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose values are still in the file.

    Attributes:
        storage: The storage that holds its values.
        dtype: Type of the values.
        shape: Shape.
        stride, offset: Where its values lie in the storage, counted in values.
    """

    storage: Storage
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    @property
    def n_bytes(self) -> int:
        """Compute the size.

        Returns:
            Bytes.
        """
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, data: bytearray) -> Tensor:
        """Build the tensor from the bytes of its storage.

        Args:
            data: Bytes of the storage.

        Returns:
            The tensor. It shares memory with the bytes.
        """
        if math.prod(self.shape) == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        n_values = len(data) // self.dtype.itemsize
        values = torch.frombuffer(data, dtype=self.dtype, count=n_values)
        return values.as_strided(self.shape, self.stride, self.offset)


def load_storage(identifier: Any) -> tuple[Storage, torch.dtype]:
    """Describe the storage that a persistent id of torch.save names.

    Args:
        identifier: ("storage", class of the storage, key, device, number of values), in the format before torch 1.6
            followed by None.

    Returns:
        The storage, and the type of its values.

    Raises:
        RefusedPickleError: The id has another form.
    """
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise RefusedPickleError("a persistent id in it does not name a storage")
    _, storage_class, key, _, numel, *views = identifier
    if (
        not isinstance(storage_class, SkippedGlobal)
        or storage_class.name not in STORAGE_DTYPES
        or views not in ([], [None])
    ):
        raise RefusedPickleError("a persistent id in it names a storage of an unknown kind")
    if not isinstance(key, str):
        raise RefusedPickleError("a persistent id in it has a key that is no text")

    dtype = STORAGE_DTYPES[storage_class.name]
    (numel,) = _check_counts([numel])
    return Storage(key, numel, numel * dtype.itemsize), dtype


def _build_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *options: Any) -> StoredTensor:
    """Stands for `_rebuild_tensor` and `_rebuild_tensor_v2`."""
    return _describe(storage, storage[1], offset, shape, stride)


def _build_untyped_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *options: Any) -> StoredTensor:
    """Stands for `_rebuild_tensor_v3`, whose seventh argument is the type of the values."""
    dtype = options[2]
    if not isinstance(dtype, SkippedGlobal) or dtype.name not in DTYPES:
        raise ValueError("a tensor has an unknown type")
    return _describe(storage, DTYPES[dtype.name], offset, shape, stride)


def _describe(storage: Any, dtype: torch.dtype, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    (offset,) = _check_counts([offset])
    shape, stride = _check_counts(shape), _check_counts(stride)
    if len(shape) != len(stride):
        raise ValueError("a tensor has fewer strides than dimensions")

    tensor = StoredTensor(storage[0], dtype, shape, stride, offset)
    if tensor.n_bytes:
        last_value = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        end = (last_value + 1) * dtype.itemsize
        if max(end, tensor.n_bytes) > tensor.storage.n_bytes:
            raise ValueError(f"a tensor of shape {list(shape)} has a storage of only {tensor.storage.n_bytes} bytes")
    return tensor


def _check_counts(values: Iterable[Any]) -> tuple[int, ...]:
    counts = tuple(values)
    if any(type(count) is not int or not 0 <= count < 1 << 62 for count in counts):
        raise ValueError("a size in it is no count")
    return counts


def _build_parameter(data: Any, *options: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise ValueError("a parameter holds no tensor")
    return data


def _build_from_type(function: Any, tensor_class: Any, arguments: Any, state: Any) -> StoredTensor:
    """Stands for `_rebuild_from_type_v2`: a tensor with attributes, which are left out."""
    if not isinstance(function, SkippedGlobal) or function.name not in TENSOR_BUILDERS:
        raise RefusedPickleError("a tensor in it is built by an unknown function")
    return TENSOR_BUILDERS[function.name](*arguments)


def _build_dict(pairs: Iterable[tuple[str, Any]] = ()) -> dict[Any, Any]:
    return {key: value for key, value in pairs if isinstance(key, str)}


def _build_default_dict(*factory: Any) -> dict[Any, Any]:
    return {}


TENSOR_BUILDERS: dict[str, Callable[..., StoredTensor]] = {
    "torch._utils._rebuild_tensor": _build_tensor,
    "torch._utils._rebuild_tensor_v2": _build_tensor,
    "torch._utils._rebuild_tensor_v3": _build_untyped_tensor,
    "torch._utils._rebuild_parameter": _build_parameter,
    "torch._utils._rebuild_parameter_with_state": _build_parameter,
}
BUILDERS: dict[str, Callable[..., Any]] = {
    **TENSOR_BUILDERS,
    "torch._tensor._rebuild_from_type_v2": _build_from_type,
    "torch.Size": tuple,
    "collections.OrderedDict": _build_dict,
    "collections.defaultdict": _build_default_dict,
}
