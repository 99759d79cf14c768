"""Geometry of a NIfTI header: what is repaired as FSL and ITK do, and what a user is warned of.

A warning is the predicate of a sentence about one header: "the header of t1 ...".
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from jaxtyping import Float

MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # the low three bits of xyzt_units: m, um; 2 is mm, 0 is undefined and read as mm
VOXEL_SIZES_MM = (0.05, 20.0)  # of an MRI of the head; a unit that gives a size outside is wrong
MAX_QUATERNION_ROUNDING = 1e-2  # of b^2 + c^2 + d^2 above 1; a larger excess is no rounding
MIN_DETERMINANT = 1e-9  # of the voxel axes, relative to the product of their lengths
MAX_SIZE_DIFFERENCE = 0.01  # of sform columns from pixdim, relative
MAX_POSITION_DIFFERENCE_MM = 1.0  # of qform from sform, at a corner of the image
QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
WORLD_DIRECTIONS = ("left and right", "front and back", "top and bottom")  # along x, y, z of the world

Affine = Float[np.ndarray, "4 4"]
Header = nib.Nifti1Header  # NIfTI-2's header is a subclass


@dataclass(frozen=True)
class HeaderGeometry:
    """Geometry of a header.

    Attributes:
        affine: Voxel indices to mm.
        has_orientation: Whether left and right are known.
        warnings: What is unusual, each the predicate of a sentence about the header.
    """

    affine: Affine
    has_orientation: bool
    warnings: tuple[str, ...]


def repair_header(header: Header) -> tuple[str, ...]:
    """Repair a header in place where its meaning is certain.

    Trailing axes of length 1 are dropped. An sform that cannot be used is turned off (code 0) if there is a qform. A
    quaternion that was rounded above length 1 is scaled to 1 if the geometry rests on it.

    Args:
        header: The header.

    Returns:
        Warnings about changes of the geometry.

    Source:
        nifti_quatern_to_mat44 in nifti1_io.c scales such quaternions, https://nifti.nimh.nih.gov
    """
    shape = header.get_data_shape()
    if len(shape) > 3 and set(shape[3:]) == {1}:
        header.set_data_shape(shape[:3])

    warnings: tuple[str, ...] = ()
    sform, qform = header.get_sform(coded=True)[0], _read_qform(header)
    if sform is not None and qform is not None and not is_usable(sform) and is_usable(qform):
        header["sform_code"] = 0
        warnings = ("gives an sform that cannot be used (its columns span no volume); the qform was taken",)

    if header["sform_code"] == 0 and header["qform_code"] != 0:
        _scale_quaternion(header)
    return warnings


def _scale_quaternion(header: Header) -> None:
    """Scale a quaternion to length 1, in place, if rounding made it longer."""
    quaternion = [float(header[name]) for name in QUATERNION]
    excess = sum(value * value for value in quaternion) - 1
    if abs(header.quaternion_threshold) < excess <= MAX_QUATERNION_ROUNDING:
        for name, value in zip(QUATERNION, quaternion, strict=True):
            header[name] = value / np.sqrt(1 + excess)


def _read_qform(header: Header) -> Affine | None:
    """Return the qform; None if its code is 0 or its quaternion is no rotation."""
    scaled = header.copy()
    _scale_quaternion(scaled)
    try:
        return scaled.get_qform(coded=True)[0]
    except ValueError:
        return None


def is_usable(affine: np.ndarray) -> bool:
    """Tell whether an affine maps voxels to a volume.

    Args:
        affine: (4, 4) voxel indices to mm.

    Returns:
        False if it is zero, singular or not finite.
    """
    if not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(lengths.all() and abs(np.linalg.det(affine[:3, :3] / lengths)) > MIN_DETERMINANT)


def read_geometry(header: Header) -> HeaderGeometry:
    """Read the geometry of a header after `repair_header`.

    The sform is taken if its code is not 0, else the qform, else the voxel sizes.

    Args:
        header: The header.

    Returns:
        The geometry.

    Raises:
        ValueError: The geometry rests on a quaternion that is no rotation.
    """
    affine = np.asarray(header.get_best_affine(), np.float64)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    mm_per_unit, warnings = _read_unit(header, sizes)
    if mm_per_unit != 1:
        affine = np.diag([mm_per_unit] * 3 + [1.0]) @ affine

    has_orientation = bool(header["qform_code"]) or bool(header["sform_code"])
    if not has_orientation:
        warnings.append("gives no orientation: left and right are a guess")
    if header["sform_code"] and is_usable(affine):
        is_side_known, form_warnings = _compare_forms(header, affine, mm_per_unit)
        has_orientation &= is_side_known
        warnings += form_warnings
    return HeaderGeometry(affine, has_orientation, tuple(warnings))


def _read_unit(header: Header, sizes: np.ndarray) -> tuple[float, list[str]]:
    """Return mm per unit of length, and warnings. `sizes` are the voxel sizes in the header's unit."""
    mm_per_unit = MM_PER_UNIT.get(int(header["xyzt_units"]) % 8, 1.0)
    if mm_per_unit == 1:
        return 1.0, []

    unit = "metre" if mm_per_unit > 1 else "micron"
    if _are_plausible(sizes) and not _are_plausible(sizes * mm_per_unit):
        return 1.0, [f"gives {unit} as unit, which fits no head with voxels of {_format(sizes)}; mm was taken"]
    return mm_per_unit, [f"gives {unit} as unit; lengths were converted to mm"]


def _are_plausible(sizes_mm: np.ndarray) -> bool:
    return bool((sizes_mm >= VOXEL_SIZES_MM[0]).all() and (sizes_mm <= VOXEL_SIZES_MM[1]).all())


def _compare_forms(header: Header, sform: Affine, mm_per_unit: float) -> tuple[bool, list[str]]:
    """Compare the sform in mm with the qform and pixdim. Returns whether the sides are known, and warnings."""
    warnings = []
    sizes = np.linalg.norm(sform[:3, :3], axis=0)
    pixdim = np.asarray(header["pixdim"][1:4], np.float64) * mm_per_unit
    is_size_equal = bool((abs(sizes - pixdim) <= MAX_SIZE_DIFFERENCE * sizes).all())
    if not is_size_equal:
        warnings.append(
            f"gives voxels of {_format(sizes)} mm by sform, {_format(pixdim)} by pixdim; the sform was taken"
        )

    qform = _read_qform(header)
    if qform is None or not is_usable(qform):
        return True, warnings
    qform = np.diag([mm_per_unit] * 3 + [1.0]) @ qform

    # A row holds the direction, in voxels, in which x, y or z of the world grows.
    cosines = (sform[:3, :3] / sizes * (qform[:3, :3] / np.linalg.norm(qform[:3, :3], axis=0))).sum(1)
    opposite_directions = [direction for direction, cosine in zip(WORLD_DIRECTIONS, cosines, strict=True) if cosine < 0]
    is_side_known = WORLD_DIRECTIONS[0] not in opposite_directions
    if opposite_directions:
        remedy = "" if is_side_known else ", L and R are not drawn: compare the sides with the original images"
        warnings.append(
            f"gives qform and sform that disagree on {', '.join(opposite_directions)}; the sform was taken{remedy}"
        )
    elif is_size_equal:
        distance = _largest_distance(sform, qform, header.get_data_shape())
        if distance > MAX_POSITION_DIFFERENCE_MM:
            warnings.append(f"gives qform and sform that differ by up to {distance:.1f} mm; the sform was taken")
    return is_side_known, warnings


def _largest_distance(a: Affine, b: Affine, shape: tuple[int, ...]) -> float:
    """Return the largest distance in mm between the positions that two affines give to a corner of the image."""
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.array(shape[:3]) - 1)
    difference = a - b
    return float(np.linalg.norm(corners @ difference[:3, :3].T + difference[:3, 3], axis=1).max())


def _format(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
