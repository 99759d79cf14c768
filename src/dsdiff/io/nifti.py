"""NIfTI in and out. Whatever the header says of space comes back bit for bit; whatever it says of people does not."""

import gzip
import logging
import math
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError

from dsdiff.errors import GeometryError, InputError
from dsdiff.volume import Volume

UNREADABLE = (
    ImageFileError, HeaderDataError, HeaderTypeError, EOFError, zlib.error, gzip.BadGzipFile,
    OSError, ValueError, OverflowError, MemoryError,
)  # fmt: skip
CHUNK = 1 << 22  # bytes
MOST = 1024**3  # voxels
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it would print is in the error that is raised


def read(path: Path) -> Volume:
    """Read one 3-D NIfTI-1 or NIfTI-2 file as float32, scl_slope and scl_inter applied.

    Raises `InputError` for a file that is absent, damaged, not 3-D, empty, not a real number per voxel, or that holds
    NaN or infinite voxels, and `GeometryError` for an affine that cannot be inverted.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
            raise InputError(f"{path} is {type(image).__name__}; a NIfTI file (.nii or .nii.gz) is needed")
        _check_header(image, path)
        array = np.asarray(image.dataobj).astype(np.float32)
        _check_packing(path)
    except UNREADABLE as error:
        said = str(error) or type(error).__name__
        raise InputError(f"{path} cannot be read ({said}); is it a complete NIfTI file?") from error
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise InputError(f"{path} holds {bad} NaN or infinite voxels of {array.size}; every voxel must be a number")
    header = image.header
    oriented = bool(header["qform_code"]) or bool(header["sform_code"])
    return Volume(array, image.affine.astype(np.float64), header.binaryblock, oriented)


def _check_packing(path: Path) -> None:
    """Read a gzip file to its end, where its checksum is: voxels alone would be read without it, damaged or not."""
    if path.suffix.lower() == ".gz":
        with gzip.open(path) as packed:
            while packed.read(CHUNK):
                pass


def _check_header(image: nib.Nifti1Image, path: Path) -> None:
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) != 3:
        raise InputError(f"{path} is {len(shape)}-D {shape}; one 3-D volume is needed")
    if 0 in shape:
        raise InputError(f"{path} is empty {shape}")
    if math.prod(shape) > MOST:
        raise InputError(f"{path} is {shape}, {math.prod(shape)} voxels; no MRI has more than {MOST}")
    if dtype.kind not in "iuf":
        raise InputError(f"{path} holds {dtype} voxels; one real number per voxel is needed")
    check_affine(image.affine, str(path))


def check_affine(affine: np.ndarray, what: str) -> None:
    """Raise `GeometryError` unless an affine is (4, 4), finite and invertible."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise GeometryError(
            f"{what} has an affine that cannot be used: {affine.tolist()}; (4, 4), invertible is needed"
        )


def write(volume: Volume, path: Path, description: str = "") -> None:
    """Write a volume with the geometry it was read with: affine, qform, sform and their codes.

    The stored type is the array's. Free text of the header it came from (which may name a person) is dropped and
    `description` (at most 79 characters) written instead; units are set to mm where the header left them open.
    """
    nib.save(_image(volume, description), path)


def _image(volume: Volume, description: str) -> nib.Nifti1Image:
    if volume.header is None:
        image = nib.Nifti1Image(volume.array, volume.affine)
        image.set_qform(volume.affine, 1)
        image.set_sform(volume.affine, 1)
    else:
        wide = len(volume.header) == nib.Nifti2Header.sizeof_hdr
        image_class, header_class = (nib.Nifti2Image, nib.Nifti2Header) if wide else (nib.Nifti1Image, nib.Nifti1Header)
        header = header_class(volume.header).as_byteswapped("<")
        header.set_data_dtype(volume.array.dtype)
        image = image_class(volume.array, None, header)  # no affine: the header's own forms stay as they are
    header = image.header
    for text in ("descrip", "aux_file", "intent_name", "data_type", "db_name"):
        if text in header.structarr.dtype.names:  # NIfTI-2 lacks the last two
            header[text] = b""
    header["descrip"] = description.encode()[:79]
    header["cal_min"] = header["cal_max"] = 0
    header.set_slope_inter(1, 0)
    if int(header["xyzt_units"]) % 8 not in (1, 2, 3):  # no unit of length
        header.set_xyzt_units("mm")
    return image
