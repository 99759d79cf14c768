"""Regions of a case: brain, tumour, and enhancing tumour."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from dsdiff.io.segmentation import enhancing_label, tumour_mask
from dsdiff.volume import Mask3D


@dataclass(frozen=True)
class Regions:
    """Masks on one grid. `tumour` and `enhancing` are empty without a segmentation or without such a label."""

    brain: Mask3D
    tumour: Mask3D
    enhancing: Mask3D

    @property
    def non_enhancing_brain(self) -> Mask3D:
        """The brain without the enhancing tumour.

        Returns:
            The mask.
        """
        return self.brain & ~self.enhancing

    @property
    def healthy(self) -> Mask3D:
        """The brain without the tumour.

        Returns:
            The mask.
        """
        return self.brain & ~self.tumour

    @property
    def non_enhancing_tumour(self) -> Mask3D:
        """The tumour without its enhancing part.

        Returns:
            The mask.
        """
        return self.tumour & ~self.enhancing

    def crop(self, box: tuple[slice, ...]) -> "Regions":
        """Crop all masks.

        Args:
            box: One slice per axis.

        Returns:
            The masks in the box.
        """
        return Regions(self.brain[box], self.tumour[box], self.enhancing[box])


def bounding_box(mask: Mask3D, margin: int) -> tuple[slice, ...]:
    """Compute the bounding box of a mask.

    Args:
        mask: A mask that is not empty.
        margin: Voxels to add on every side, within the grid.

    Returns:
        One slice per axis.
    """
    box = []
    for axis, size in enumerate(mask.shape):
        projection_axes = tuple(k for k in range(mask.ndim) if k != axis)
        occupied = np.flatnonzero(mask.any(projection_axes))
        box.append(slice(max(int(occupied[0]) - margin, 0), min(int(occupied[-1]) + 1 + margin, size)))
    return tuple(box)


def make_regions(brain: Mask3D, labels: Shaped[np.ndarray, "x y z"] | None, case_name: str = "this case") -> Regions:
    """Make regions from a brain mask and a segmentation.

    Args:
        brain: The brain mask.
        labels: Labels of the segmentation by a BraTS convention; None without one.
        case_name: Name for the error message.

    Returns:
        The regions.

    Raises:
        InputError: The labels are those of no tumour segmentation.
    """
    if labels is None:
        return Regions(brain, np.zeros_like(brain), np.zeros_like(brain))
    tumour = tumour_mask(labels, brain, case_name)
    return Regions(brain, tumour, (labels == enhancing_label(labels)) & brain)
