"""Regions of a case: the brain, the tumour and what of it enhances."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Shaped

from dsdiff.io.segmentation import enhancing_label, tumour


@dataclass(frozen=True)
class Regions:
    """Masks on one grid. `enhancing` and `tumour` are empty where there is no segmentation or no such label."""

    brain: Bool[np.ndarray, "x y z"]
    tumour: Bool[np.ndarray, "x y z"]
    enhancing: Bool[np.ndarray, "x y z"]

    @property
    def rest_of_brain(self) -> Bool[np.ndarray, "x y z"]:
        """The brain without the enhancing tumour."""
        return self.brain & ~self.enhancing

    @property
    def healthy(self) -> Bool[np.ndarray, "x y z"]:
        """The brain without the tumour."""
        return self.brain & ~self.tumour

    @property
    def rest_of_tumour(self) -> Bool[np.ndarray, "x y z"]:
        """The tumour without what of it enhances."""
        return self.tumour & ~self.enhancing


def bounding_box(mask: Bool[np.ndarray, "x y z"], margin: int) -> tuple[slice, ...]:
    """The box of a mask that is not empty, with a margin in voxels, within the grid."""
    edges = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(max(int(edge[0]) - margin, 0), int(edge[-1]) + 1 + margin) for edge in edges)


def regions(
    brain: Bool[np.ndarray, "x y z"], labels: Shaped[np.ndarray, "x y z"] | None, case: str = "this case"
) -> Regions:
    """Regions from a brain mask and the labels of a segmentation. Raises what `labels.tumour` raises."""
    if labels is None:
        return Regions(brain, np.zeros_like(brain), np.zeros_like(brain))
    return Regions(brain, tumour(labels, brain, case), (labels == enhancing_label(labels)) & brain)
