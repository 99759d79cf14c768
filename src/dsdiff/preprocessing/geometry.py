"""Where a preprocessed case lies in its files, and the way back to their grid and intensities.

A network sees the brain's bounding box on RAS+ axes. `Geometry` holds what is needed to undo this.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Shaped
from nibabel.orientations import inv_ornt_aff, io_orientation

from dsdiff.orientation import from_canonical, to_canonical
from dsdiff.volume import Mask3D, Volume, Volume3D


@dataclass(frozen=True)
class IntensityScale:
    """Linear map of one contrast's intensities to robust z-scores: z = (intensity - center) / width.

    Attributes:
        center: Median of the brain, in the file's intensities.
        width: Median absolute deviation in the brain, times 1.4826; above 0.
    """

    center: float
    width: float


@dataclass(frozen=True)
class Geometry:
    """Position of the brain's bounding box in the input files.

    Attributes:
        scales: Contrast -> intensity scale that was applied to it.
        corner: First voxel (x, y, z) of the box in the full volume on RAS+ axes.
        shape: Shape (x, y, z) of the box.
        grid: Blank volume on the grid of the input files, which is the grid of every output.
        hashes: Contrast -> SHA-256 of its file; empty for volumes that were not read from files.
    """

    scales: dict[str, IntensityScale]
    corner: tuple[int, int, int]
    shape: tuple[int, int, int]
    grid: Volume
    hashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The brain's bounding box in the full volume on RAS+ axes.

        Returns:
            One slice for each of x, y, z.
        """
        x, y, z = (slice(start, start + size) for start, size in zip(self.corner, self.shape, strict=True))
        return x, y, z

    @property
    def has_orientation(self) -> bool:
        """Whether the header of the input gives an orientation.

        Returns:
            False if left and right are a guess.
        """
        return self.grid.has_orientation

    def uncrop(self, image: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "X Y Z"]:
        """Put an image of the box back into the full volume.

        Args:
            image: (x, y, z) array of the box, on RAS+ axes.

        Returns:
            (X, Y, Z) array on RAS+ axes, zero outside the box.
        """
        volume = np.zeros(to_canonical(self.grid).shape, image.dtype)
        volume[self.box] = image
        return volume

    def file_voxel(self, point: tuple[int, int, int]) -> tuple[int, int, int]:
        """Convert a voxel of the box to a voxel of the input files.

        Args:
            point: Voxel (x, y, z) of the box.

        Returns:
            The voxel in the files' own order and direction of axes.
        """
        from_canonical_axes = inv_ornt_aff(io_orientation(self.grid.affine), self.grid.shape)
        canonical_point = (*(index + start for index, start in zip(point, self.corner, strict=True)), 1)
        x, y, z, _ = from_canonical_axes @ canonical_point
        return round(x), round(y), round(z)

    def restore(self, z_scores: Volume3D, brain: Mask3D, contrast: str = "t1") -> Volume:
        """Restore an image to the grid of the files and the intensities of a contrast.

        Args:
            z_scores: (x, y, z) robust z-scores of the box.
            brain: (x, y, z) brain mask of the box.
            contrast: The contrast whose intensity scale is undone.

        Returns:
            A volume on the files' grid, zero outside the brain.
        """
        scale = self.scales[contrast]
        return self._to_files(z_scores * scale.width + scale.center, brain)

    def restore_std(self, std: Volume3D, brain: Mask3D, contrast: str = "t1") -> Volume:
        """Restore a standard deviation, which is scaled but not shifted; otherwise like `restore`.

        Args:
            std: (x, y, z) standard deviation of robust z-scores in the box.
            brain: (x, y, z) brain mask of the box.
            contrast: The contrast whose intensity scale is undone.

        Returns:
            A volume on the files' grid, in the intensities of the contrast, zero outside the brain.
        """
        return self._to_files(std * self.scales[contrast].width, brain)

    def _to_files(self, intensities: Volume3D, brain: Mask3D) -> Volume:
        full_volume = self.uncrop(np.where(brain, intensities, 0).astype(np.float32))
        return from_canonical(full_volume, self.grid)
