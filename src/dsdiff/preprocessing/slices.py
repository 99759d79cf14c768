"""Slices of a preprocessed case along its last axis: each cropped to its brain, with its neighbors, grouped by shape.

They are axial in a case as preprocessed, and of another plane if the case was turned (see `preprocessing.planes`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from dsdiff.preprocessing.normalize import PreprocessedCase
from dsdiff.volume import Mask3D, Slice2D, Volume3D


@dataclass(frozen=True)
class Box:
    """Position of a slice's brain in a preprocessed case. It may reach beyond the case, where slices are zero.

    Attributes:
        z: Index of the slice.
        x: First row.
        y: First column.
        h: Number of rows.
        w: Number of columns.
    """

    z: int
    x: int
    y: int
    h: int
    w: int


@dataclass(frozen=True)
class SliceBatch:
    """Slices of one shape.

    Attributes:
        boxes: Position of each slice.
        sources: Robust z-scores, contrasts in the order of the model; NaN for an absent contrast.
        brain: Brain mask.
        absent: Indices of the contrasts that the case does not have.
    """

    boxes: tuple[Box, ...]
    sources: Float[np.ndarray, "b s d h w"]
    brain: Bool[np.ndarray, "b 1 h w"]
    absent: tuple[int, ...] = ()


@dataclass(frozen=True)
class VolumeStack:
    """Images of a case stacked with the slice axis before the in-plane axes.

    An absent contrast is NaN, so that code that reads it by mistake is noticed.
    """

    images: Shaped[np.ndarray, "s z x y"]

    def take(self, box: Box, context_slices: int) -> Shaped[np.ndarray, "s d h w"]:
        """Cut one slice and its neighbors.

        Args:
            box: Position of the slice.
            context_slices: Number of slices d, odd; the slice itself is in the middle.

        Returns:
            (s, d, h, w) array, zero beyond the case.
        """
        crop = np.zeros((len(self.images), context_slices, box.h, box.w), self.images.dtype)
        corner = (box.z - context_slices // 2, box.x, box.y)

        crop_index, image_index = [slice(None)], [slice(None)]
        for start, size, limit in zip(corner, crop.shape[1:], self.images.shape[1:], strict=True):
            first = max(start, 0)
            last = max(first, min(start + size, limit))
            crop_index.append(slice(first - start, last - start))
            image_index.append(slice(first, last))

        crop[tuple(crop_index)] = self.images[tuple(image_index)]
        return crop


def brain_boxes(brain: Mask3D, multiple: int) -> list[Box]:
    """Find the bounding box of the brain in every slice that holds brain.

    Args:
        brain: (x, y, z) mask.
        multiple: Sides of a box are multiples of this; the box grows about its center.

    Returns:
        The boxes in the order of the slices.
    """
    boxes = []
    for z in np.flatnonzero(brain.any((0, 1))):
        rows = np.flatnonzero(brain[:, :, z].any(1))
        columns = np.flatnonzero(brain[:, :, z].any(0))
        x, h = _grow(int(rows[0]), int(rows[-1]) + 1, multiple)
        y, w = _grow(int(columns[0]), int(columns[-1]) + 1, multiple)
        boxes.append(Box(int(z), x, y, h, w))
    return boxes


def _grow(start: int, stop: int, multiple: int) -> tuple[int, int]:
    """Grow an interval about its center to a multiple; returns the new start and size."""
    size = -(-(stop - start) // multiple) * multiple
    return start - (size - (stop - start)) // 2, size


def stack_contrasts(case: PreprocessedCase, contrasts: Sequence[str]) -> VolumeStack:
    """Stack contrasts of a case so that slices can be taken.

    Args:
        case: The case.
        contrasts: Names in the order of the stack.

    Returns:
        The stack, NaN for a contrast that the case does not have.
    """
    absent = np.broadcast_to(np.float32(np.nan), case.brain.shape)
    return _stack([case.images.get(contrast, absent) for contrast in contrasts])


def stack_brain(case: PreprocessedCase) -> VolumeStack:
    """Stack the brain mask of a case so that slices can be taken.

    Args:
        case: The case.

    Returns:
        A boolean stack with one image.
    """
    return _stack([case.brain])


def _stack(images: Sequence[Shaped[np.ndarray, "x y z"]]) -> VolumeStack:
    return VolumeStack(np.stack([image.transpose(2, 0, 1) for image in images]))


def add_slice(volume: Volume3D, image: Slice2D, box: Box) -> None:
    """Add one slice to a volume, in place, at the position that `VolumeStack.take` took it from.

    Args:
        volume: (x, y, z) array.
        image: (h, w) slice; the part beyond the volume is dropped.
        box: Position of the slice.
    """
    x0, y0 = max(box.x, 0), max(box.y, 0)
    x1, y1 = min(box.x + box.h, volume.shape[0]), min(box.y + box.w, volume.shape[1])
    volume[x0:x1, y0:y1, box.z] += image[x0 - box.x : x1 - box.x, y0 - box.y : y1 - box.y]


def make_batches(
    case: PreprocessedCase, contrasts: Sequence[str], context_slices: int, multiple: int, batch_size: int
) -> Iterator[SliceBatch]:
    """Cut a case into batches of slices; the largest shape comes first, so that memory peaks early.

    Args:
        case: The case.
        contrasts: Names of the source contrasts in the model's order.
        context_slices: Number of slices that the network sees for one slice, odd.
        multiple: Sides of a slice are multiples of this.
        batch_size: Slices in a batch at most.

    Yields:
        Batches of one shape each, which together hold every slice with brain once.
    """
    boxes_by_shape: dict[tuple[int, int], list[Box]] = defaultdict(list)
    for box in brain_boxes(case.brain, multiple):
        boxes_by_shape[box.h, box.w].append(box)

    absent = tuple(i for i, contrast in enumerate(contrasts) if contrast not in case.images)
    contrast_stack, brain_stack = stack_contrasts(case, contrasts), stack_brain(case)

    for _, boxes in sorted(boxes_by_shape.items(), key=lambda item: -item[0][0] * item[0][1]):
        for start in range(0, len(boxes), batch_size):
            batch_boxes = tuple(boxes[start : start + batch_size])
            sources = np.stack([contrast_stack.take(box, context_slices) for box in batch_boxes])
            brain = np.concatenate([brain_stack.take(box, 1) for box in batch_boxes])
            yield SliceBatch(batch_boxes, sources, brain, absent)
