"""A volume: an array in space. Geometry travels with the data and is restored on write."""

from dataclasses import dataclass, field, replace

import numpy as np


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
