"""Volume: a 3-D image with its geometry, which travels with the data and is restored on write."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from jaxtyping import Bool, Float

# The shapes that images have outside networks. Float takes any precision; the alias names the axes.
Volume3D = Float[np.ndarray, "x y z"]
Mask3D = Bool[np.ndarray, "x y z"]
Slice2D = Float[np.ndarray, "h w"]
VoxelSpacing = tuple[float, float, float]  # mm along x, y, z


@dataclass(frozen=True)
class Volume:
    """One 3-D image.

    array: (x, y, z), any real dtype.
    affine: (4, 4), voxel indices to mm, RAS+ world (the NIfTI convention).
    header: NIfTI header as read, so that qform, sform and their codes are written back bit for bit; None if the volume
        was not read from a file.
    has_orientation: False if the header gives no orientation (both codes 0); left and right are then a guess. False
        too if its qform and sform disagree on left and right.
    header_warnings: What is unusual about the header, each the predicate of a sentence: "the header of t1 ...".
    """

    array: np.ndarray = field(repr=False)
    affine: np.ndarray
    header: bytes | None = field(default=None, repr=False)
    has_orientation: bool = True
    header_warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels per axis.

        Returns:
            (x, y, z).
        """
        return self.array.shape

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size.

        Returns:
            mm along x, y, z.
        """
        return np.sqrt((self.affine[:3, :3] ** 2).sum(0))

    def with_array(self, array: np.ndarray) -> "Volume":
        """Put other voxel values on the same grid.

        Args:
            array: (x, y, z), of the same shape.

        Returns:
            A volume with the affine and header of this one.

        Raises:
            ValueError: The shape differs.
        """
        if array.shape != self.array.shape:
            raise ValueError(f"an array of shape {array.shape} does not fit the grid {self.array.shape}")

        return replace(self, array=array)

    def blank(self) -> "Volume":
        """Make an image of zeros on the same grid.

        Returns:
            A volume whose zeros take no memory (read-only).
        """
        return replace(self, array=np.broadcast_to(np.float32(0), self.shape))


def header_warnings(volumes: Mapping[str, Volume]) -> list[str]:
    """Word the warnings about the headers of several volumes.

    Args:
        volumes: Volumes by contrast.

    Returns:
        One sentence for each kind of warning, which names the contrasts that it is about.
    """
    contrasts_by_warning: dict[str, list[str]] = {}
    for contrast, volume in volumes.items():
        for warning in volume.header_warnings:
            contrasts_by_warning.setdefault(warning, []).append(contrast)
    return [f"the header of {', '.join(names)} {warning}" for warning, names in contrasts_by_warning.items()]


def same_grid(a: Volume, b: Volume, tolerance_mm: float = 1e-2) -> bool:
    """Tell whether two volumes have the same grid.

    Args:
        a: A volume.
        b: Another.
        tolerance_mm: Largest distance of corresponding voxels.

    Returns:
        True if their shapes are equal and corresponding voxels lie within the tolerance.
    """
    if a.shape != b.shape:
        return False

    corners = np.array([[*corner, 1] for corner in product(*((0, size) for size in a.shape))])
    return bool(np.abs(corners @ (a.affine - b.affine).T).max() <= tolerance_mm)
