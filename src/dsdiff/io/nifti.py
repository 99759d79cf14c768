"""Read and write NIfTI files. Geometry is restored bit for bit; text that may identify a person is not."""

import gzip
import io
import logging
import math
import zlib
from pathlib import Path
from shlex import quote
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError

from dsdiff.errors import GeometryError, InputError
from dsdiff.io.file_format import COPY_AGAIN, START_BYTES, check_nifti, check_presence, open_decompressed
from dsdiff.io.header_geometry import read_geometry, repair_header
from dsdiff.volume import Volume

READ_ERRORS = (
    ImageFileError, HeaderDataError, HeaderTypeError, EOFError, zlib.error, gzip.BadGzipFile,
    OSError, ValueError, OverflowError, MemoryError,
)  # fmt: skip
CHUNK_BYTES = 1 << 22
MAX_VOXELS = 1024**3
TEXT_FIELDS = ("descrip", "aux_file", "intent_name", "data_type", "db_name")  # NIfTI-2 lacks the last two
MAX_DESCRIPTION_BYTES = 79
SPACE_UNITS = (1, 2, 3)  # m, mm, um, in the low three bits of xyzt_units
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # the raised error holds what nibabel would log


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file, compressed or not, whatever its suffix.

    Args:
        path: One 3-D image with a real number per voxel. Trailing axes of length 1 are dropped.

    Returns:
        The volume as float32, with scl_slope and scl_inter applied.

    Raises:
        InputError: The file is absent, damaged, not 3-D, empty, not of real numbers, or has NaN or infinite voxels.
        GeometryError: The affine cannot be inverted.
    """
    path = Path(path)
    try:
        check_presence(path)
        with open_decompressed(path) as stream:
            image, geometry_warnings = _open_image(stream, path)
            _check_voxels(image, path)
            geometry = read_geometry(image.header)
            check_affine(geometry.affine, str(path))
            array = np.asarray(image.dataobj).astype(np.float32)
            _read_to_end(stream)
    except READ_ERRORS as error:
        raise InputError(f"{path} {_explain_read_error(path, error)}") from error

    n_bad = int(array.size - np.isfinite(array).sum())
    if n_bad:
        raise InputError(f"{path} holds {n_bad} NaN or infinite voxels of {array.size}; every voxel must be a number")

    warnings = (*geometry_warnings, *geometry.warnings)
    return Volume(array, geometry.affine, image.header.binaryblock, geometry.has_orientation, warnings)


def _open_image(stream: BinaryIO, path: Path) -> tuple[nib.Nifti1Image, tuple[str, ...]]:
    """Read the header of an uncompressed stream and repair it. Voxels are read later. Returns warnings too."""
    version = check_nifti(path, stream.read(START_BYTES))
    stream.seek(0)

    image_class = nib.Nifti2Image if version == 2 else nib.Nifti1Image
    header = image_class.header_class.from_fileobj(stream)
    warnings = repair_header(header)
    voxels = image_class.ImageArrayProxy(stream, header.copy())
    return image_class(voxels, None, header), warnings


def _read_to_end(stream: BinaryIO) -> None:
    """Read a compressed stream to its end, where its checksum is."""
    if not isinstance(stream, io.BufferedReader):
        while stream.read(CHUNK_BYTES):
            pass


def _explain_read_error(path: Path, error: Exception) -> str:
    """Word what is wrong with a file that could not be read, and what to do."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror}); make it readable, or copy it again"

    reason = str(error) or type(error).__name__
    if isinstance(error, gzip.BadGzipFile) and reason.startswith("Not a gzipped file"):
        return (
            "has other bytes behind the end of its gzip stream; "
            f"if nothing else is wrong with it, this removes them: gzip -dc {quote(str(path))} > fixed.nii"
        )
    if reason.startswith("w2 should be positive"):  # nibabel's words
        problem = "has a qform that is no rotation (b^2 + c^2 + d^2 is above 1) and no sform"
        return f"{problem}; convert it again from its source"
    if isinstance(error, EOFError) or reason.startswith("Expected"):
        return f"is cut off ({reason.partition(' from ')[0]}); {COPY_AGAIN}"
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        return f"is damaged ({reason}); {COPY_AGAIN}"
    return f"cannot be read ({reason}); is it a complete NIfTI file?"


def _check_voxels(image: nib.Nifti1Image, path: Path) -> None:
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) != 3:
        raise InputError(f"{path} is {len(shape)}-D {shape}; one 3-D volume is needed")
    if 0 in shape:
        raise InputError(f"{path} is empty {shape}")
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(f"{path} is {shape}, {math.prod(shape)} voxels; no MRI has more than {MAX_VOXELS}")
    if dtype.kind not in "iuf":
        raise InputError(f"{path} holds {dtype} voxels; one real number per voxel is needed")


def check_affine(affine: np.ndarray, label: str) -> None:
    """Check that an affine is (4, 4), finite and invertible.

    Args:
        affine: Voxel indices to mm.
        label: The image, for the message.

    Raises:
        GeometryError: It is not.
    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise GeometryError(
            f"{label} has an affine that cannot be used: {affine.tolist()}; a (4, 4) invertible matrix is needed"
        )


def write_nifti(volume: Volume, path: Path, description: str = "") -> None:
    """Write a volume with the geometry of the file that it was read from: affine, qform, sform and their codes.

    Free text of the original header, which may name a person, is dropped. Units are set to mm if the header has none.

    Args:
        volume: The data type of its array is the stored type.
        path: The file to write.
        description: Stored in the header, at most 79 bytes.
    """
    nib.save(_to_image(volume, description), path)


def _to_image(volume: Volume, description: str) -> nib.Nifti1Image:
    if volume.header is None:
        image = nib.Nifti1Image(volume.array, volume.affine)
        image.set_qform(volume.affine, 1)
        image.set_sform(volume.affine, 1)
    else:
        is_nifti2 = len(volume.header) == nib.Nifti2Header.sizeof_hdr
        image_class = nib.Nifti2Image if is_nifti2 else nib.Nifti1Image
        header = image_class.header_class(volume.header).as_byteswapped("<")
        header.set_data_dtype(volume.array.dtype)
        image = image_class(volume.array, None, header)  # without an affine, qform and sform of the header stay

    header = image.header
    for name in TEXT_FIELDS:
        if name in header.structarr.dtype.names:
            header[name] = b""
    header["descrip"] = description.encode()[:MAX_DESCRIPTION_BYTES]
    header["cal_min"] = header["cal_max"] = 0
    header.set_slope_inter(1, 0)
    if int(header["xyzt_units"]) % 8 not in SPACE_UNITS:
        header.set_xyzt_units("mm")

    return image
