"""A volume: an array in space. Geometry travels with the data and is restored on write."""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

RAS = np.array([[0, 1], [1, 1], [2, 1]])  # orientation of (x, y, z) = (right, anterior, superior)


@dataclass(frozen=True)
class Volume:
    """One 3-D image.

    array:  (x, y, z), any real dtype.
    affine: (4, 4), voxel indices to millimetres, RAS+ world (the NIfTI convention).
    header: the NIfTI header as it was read, so that a write restores qform, sform and their codes bit for bit;
            None for a volume that never was a file.
    oriented: whether the header tells where left is; without a word (both codes 0) the affine is a guess.
    """

    array: np.ndarray = field(repr=False)
    affine: np.ndarray
    header: bytes | None = field(default=None, repr=False)
    oriented: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size in mm along x, y, z."""
        return np.sqrt((self.affine[:3, :3] ** 2).sum(0))

    def with_array(self, array: np.ndarray) -> "Volume":
        """Another image on the same grid."""
        if array.shape != self.array.shape:
            raise ValueError(f"an array of shape {array.shape} does not fit the grid {self.array.shape}")
        return replace(self, array=array)

    def blank(self) -> "Volume":
        """The same grid with nothing on it: zeros that take no memory."""
        return replace(self, array=np.broadcast_to(np.float32(0), self.shape))


def same_grid(a: Volume, b: Volume, tolerance_mm: float = 1e-2) -> bool:
    """Whether two volumes have one shape and corresponding voxels lie within `tolerance_mm` of one another."""
    if a.shape != b.shape:
        return False
    corners = np.array([[i, j, k, 1] for i in (0, a.shape[0]) for j in (0, a.shape[1]) for k in (0, a.shape[2])])
    return bool(np.abs(corners @ (a.affine - b.affine).T).max() <= tolerance_mm)


def to_canonical(volume: Volume) -> Volume:
    """Reorder the axes of a volume to RAS+ by permutation and flips.

    Returns:
        A view of the same image, (x, y, z) = (right, anterior, superior), with the affine of the new axes. Voxel
        values are not touched.
    """
    orientation = io_orientation(volume.affine)
    array = apply_orientation(volume.array, orientation)

    return Volume(array, volume.affine @ inv_ornt_aff(orientation, volume.shape))


def from_canonical(array: Float[np.ndarray, "x y z"], reference: Volume) -> Volume:
    """Undo `to_canonical`: put an RAS+ array back on the grid of `reference`.

    Args:
        array: (x, y, z), axes in RAS+ order.
        reference: The volume whose axes, affine and header the result takes.
    """
    inverse = ornt_transform(RAS, io_orientation(reference.affine))

    return reference.with_array(np.ascontiguousarray(apply_orientation(array, inverse)))
