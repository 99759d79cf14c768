"""What a file is by its content, whatever its name: how it is compressed, and what it is if it is not NIfTI."""

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import BinaryIO, NamedTuple, cast

from dsdiff.errors import InputError

START_BYTES = 560  # holds the header of NIfTI-1 (348 bytes) and of NIfTI-2 (540 bytes), and every signature below
GZIP_MAGIC, BZIP2_MAGIC = b"\x1f\x8b", b"BZ"
OPENERS: dict[bytes, Callable[..., object]] = {GZIP_MAGIC: gzip.open, BZIP2_MAGIC: bz2.open}
NIFTI1_SIZES = (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c")  # 348, in either byte order
NIFTI2_SIZES = (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")  # 540
PAIR_SUFFIXES = (".hdr", ".img")
DICOM_SUFFIXES = (".dcm", ".ima")
ANNEX_FOLDER = ".git/annex/objects"
COPY_AGAIN = "copy or download it again"
GET_ANNEXED = "fetch its content with: git annex get {path} (or datalad get {path})"
CONVERT_DICOM = "convert the folder of its series with: dcm2niix -z y FOLDER"
CONVERT_PAIR = "convert it with: nib-convert {stem}.hdr {stem}.nii.gz"


class FileFormat(NamedTuple):
    """A format that is not NIfTI.

    description: What the file is.
    remedy: What the user does to get NIfTI; {path} and {stem} stand for the file and its name without the suffix.
    """

    description: str
    remedy: str


LFS_POINTER = FileFormat(
    "a git-lfs pointer, not the content itself", "fetch the content in its repository with: git lfs pull"
)
ANNEX_POINTER = FileFormat("a git-annex pointer, not the content itself", GET_ANNEXED)
DICOM = FileFormat("a DICOM file", CONVERT_DICOM)
WEB_PAGE = FileFormat("a web page (HTML), not the file itself", "download it again, logged in where that is needed")
PLACEHOLDERS = (LFS_POINTER, ANNEX_POINTER, WEB_PAGE)
PICTURE = "give the acquired volume, not a picture of it"
MINC = "convert it with: mnc2nii {path} {stem}.nii"

SIGNATURES: dict[tuple[int, bytes], FileFormat] = {  # (offset, bytes there) -> format
    (0, b"version https://git-lfs"): LFS_POINTER,
    (0, b"/annex/objects/"): ANNEX_POINTER,
    (128, b"DICM"): DICOM,
    (0, b"\x08\x00\x05\x00"): DICOM,  # no preamble: the file begins with the character set,
    (0, b"\x08\x00\x08\x00"): DICOM,  # or with the image type
    (0, b"\x00\x00\x00\x01"): FileFormat(
        "a FreeSurfer image (MGH)", "convert it with: mri_convert {path} {stem}.nii.gz"
    ),
    (0, b"NRRD000"): FileFormat("an NRRD file", "save it as .nii.gz, e.g. in 3D Slicer"),
    (0, b"ObjectType"): FileFormat("a MetaImage file", "save it as .nii.gz, e.g. in 3D Slicer"),
    (0, b"CDF\x01"): FileFormat("a MINC file", MINC),
    (0, b"\x89HDF"): FileFormat("an HDF5 file", f"if it is MINC, {MINC}; else export the image as .nii.gz"),
    (0, b"MATLAB"): FileFormat("a MATLAB file", "export the image as .nii.gz, e.g. with niftiwrite"),
    (0, b"\x93NUMPY"): FileFormat("a NumPy array, which has no header", "save it as .nii.gz with its affine"),
    (0, GZIP_MAGIC): FileFormat("gzipped twice", "unpack it once with: gzip -dc {path} > {stem}.once.nii.gz"),
    (0, b"PK\x03\x04"): FileFormat("a zip archive or a PyTorch file", "unpack the archive and give the image in it"),
    (257, b"ustar"): FileFormat("a tar archive", "unpack it with: tar -xf {path}"),
    (0, b"\xfd7zXZ"): FileFormat("compressed with xz", "unpack it with: xz -d {path}"),
    (0, b"\x28\xb5\x2f\xfd"): FileFormat("compressed with zstd", "unpack it with: zstd -d {path}"),
    (0, b"7z\xbc\xaf"): FileFormat("a 7z archive", "unpack it with: 7z x {path}"),
    (0, b"\x89PNG"): FileFormat("a PNG picture", PICTURE),
    (0, b"\xff\xd8\xff"): FileFormat("a JPEG picture", PICTURE),
    (0, b"%PDF"): FileFormat("a PDF document", PICTURE),
}


def check_presence(path: Path) -> None:
    """Check that a path is a file whose content is on this machine.

    Args:
        path: The path.

    Raises:
        InputError: It is a link without content, a folder, or nothing.
    """
    if path.is_file():
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder; one NIfTI file (.nii or .nii.gz) is needed")
    if not path.is_symlink():
        raise InputError(f"{path}: no such file")

    target = path.readlink()
    if ANNEX_FOLDER in target.as_posix():
        remedy = GET_ANNEXED.format(path=quote(str(path)))
        raise InputError(f"{path} is a git-annex link whose content is not on this machine; {remedy}")
    raise InputError(f"{path} is a link to {target}, and there is no such file; restore it, or give the image itself")


def open_decompressed(path: Path) -> BinaryIO:
    """Open a file for reading. Its first two bytes, not its name, tell whether it is compressed.

    Args:
        path: A file, plain or compressed with gzip or bzip2.

    Returns:
        The stream of the uncompressed bytes.
    """
    return cast(BinaryIO, OPENERS.get(read_magic(path), open)(path, "rb"))


def read_magic(path: Path) -> bytes:
    """Read the first two bytes of a file.

    Args:
        path: The file.

    Returns:
        Two bytes; fewer if the file is shorter.
    """
    with path.open("rb") as file:
        return file.read(2)


def describe_placeholder(path: Path) -> str | None:
    """Describe a file that stands in place of another, of any format.

    Args:
        path: A file that could not be read.

    Returns:
        One sentence with the remedy for an empty file, a pointer of git-lfs or git-annex, or a web page; else None.
    """
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    file_format = identify_format(path, start)
    if start and file_format not in PLACEHOLDERS:
        return None
    return f"{path} is {file_format.description}; {file_format.remedy.format(path=quote(str(path)))}"


def nifti_version(start: bytes) -> int | None:
    """Tell by the first bytes whether a file is NIfTI.

    Args:
        start: The first `START_BYTES` bytes, uncompressed.

    Returns:
        1 or 2; None if the file is not NIfTI.
    """
    if start[:4] in NIFTI1_SIZES and start[344:347] in (b"n+1", b"ni1"):
        return 1
    if start[:4] in NIFTI2_SIZES and start[4:7] in (b"n+2", b"ni2"):
        return 2
    return None


def check_nifti(path: Path, start: bytes) -> int:
    """Check that a file is one NIfTI file.

    Args:
        path: The file.
        start: Its first `START_BYTES` bytes, uncompressed.

    Returns:
        The version of NIfTI, 1 or 2.

    Raises:
        InputError: It is something else. The message names it and what to do.
    """
    version = nifti_version(start)
    if version and path.suffix.lower() not in PAIR_SUFFIXES:
        return version

    file_format = identify_format(path, start)
    stem = path.with_suffix("").with_suffix("") if path.suffix.lower() == ".gz" else path.with_suffix("")
    remedy = file_format.remedy.format(path=quote(str(path)), stem=quote(str(stem)))
    raise InputError(f"{path} is {file_format.description}; {remedy}")


def identify_format(path: Path, start: bytes) -> FileFormat:
    """Identify a file that is not NIfTI.

    Args:
        path: The file.
        start: Its first `START_BYTES` bytes, uncompressed.

    Returns:
        The format.
    """
    if path.suffix.lower() in PAIR_SUFFIXES:
        pair = "a NIfTI pair" if nifti_version(start) else "an Analyze or NIfTI pair"
        return FileFormat(f"one of the two files of {pair} (.hdr and .img); one .nii.gz is needed", CONVERT_PAIR)
    if not start.strip(b"\0"):
        return FileFormat("filled with zeros" if start else "empty (no bytes)", COPY_AGAIN)

    for (offset, magic), file_format in SIGNATURES.items():
        if start[offset:].startswith(magic):
            return file_format

    if path.suffix.lower() in DICOM_SUFFIXES:
        return DICOM
    if start[:4] in NIFTI1_SIZES:
        return FileFormat(
            "an Analyze file (no NIfTI signature), which does not hold left and right",
            "convert it again from DICOM with: dcm2niix -z y FOLDER",
        )

    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return WEB_PAGE
    if start.isascii() and start.decode().replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return FileFormat("a text file, not an image", f"{COPY_AGAIN}, or give the image itself")
    return FileFormat("no NIfTI file (it does not begin with a NIfTI header)", f"{COPY_AGAIN}, or convert it to NIfTI")
