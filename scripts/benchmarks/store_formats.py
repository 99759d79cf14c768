"""Prepared patients as HDF5 files and as zarr groups: writers and readers that store.py compares."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

if TYPE_CHECKING:
    import zarr

NAMES = ("t1", "t2", "flair", "t1ce", "region")
SOURCES, TARGET = NAMES[:3], NAMES[3]


def write_hdf5(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write a case as one HDF5 file.

    Args:
        arrays: Contrast -> array.
        path: Path without suffix.
    """
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, array in arrays.items():
            file.create_dataset(
                name,
                data=array,
                chunks=(1, *array.shape[1:]),
                compression="gzip",
                compression_opts=1,
                shuffle=True,
                fletcher32=True,
            )


def write_zarr(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write a case as one zarr group, with one shard for each contrast.

    Args:
        arrays: Contrast -> array.
        path: Path without suffix.
    """
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    group = zarr.open_group(path.with_suffix(".zarr"), mode="w")
    for name, array in arrays.items():
        codec = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=array.itemsize)
        zarr_array = group.create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            shards=array.shape,
            chunks=(1, *array.shape[1:]),
            compressors=[codec, Crc32cCodec()],
        )
        zarr_array[:] = array


def read_stack(arrays: "h5py.File | zarr.Group | dict[str, zarr.Array]", z: int) -> int:
    """Read what training reads for one slice.

    Args:
        arrays: An open case.
        z: Number of the slice.

    Returns:
        Number of bytes.
    """
    sources = [arrays[name][z - 1 : z + 2] for name in SOURCES]
    targets = [arrays[name][z] for name in (TARGET, "region")]
    return sum(array.nbytes for array in (*sources, *targets))


def open_and_read_hdf5(path: Path, z: int) -> int:
    """Open an HDF5 file and read a stack.

    Args:
        path: Path without suffix.
        z: Number of the slice.

    Returns:
        Number of bytes.
    """
    with h5py.File(path.with_suffix(".h5"), "r") as file:
        return read_stack(file, z)


def open_and_read_zarr(path: Path, z: int) -> int:
    """Open a zarr group and read a stack.

    Args:
        path: Path without suffix.
        z: Number of the slice.

    Returns:
        Number of bytes.
    """
    import zarr

    return read_stack(zarr.open_group(path.with_suffix(".zarr"), mode="r"), z)


@lru_cache(maxsize=4096)
def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file once.

    Args:
        path: Path without suffix.

    Returns:
        The open file.
    """
    return h5py.File(path.with_suffix(".h5"), "r")


@lru_cache(maxsize=4096)
def open_zarr(path: Path) -> "dict[str, zarr.Array]":
    """Open a zarr group once.

    Args:
        path: Path without suffix.

    Returns:
        Contrast -> array.
    """
    import zarr

    group = zarr.open_group(path.with_suffix(".zarr"), mode="r")
    return {name: group[name] for name in NAMES}


READERS: dict[str, Callable[[Path, int], int]] = {
    "HDF5, opened for each stack": open_and_read_hdf5,
    "HDF5, kept open": lambda path, z: read_stack(open_hdf5(path), z),
    "zarr 3, opened for each stack": open_and_read_zarr,
    "zarr 3, kept open": lambda path, z: read_stack(open_zarr(path), z),
}
WRITERS: dict[str, Callable[[dict[str, np.ndarray], Path], None]] = {"HDF5": write_hdf5, "zarr 3": write_zarr}
