"""Slices of a prepared case along its last axis: each with brain in its own box, with its neighbours, grouped by shape.

They are axial as a case is prepared, and of another plane where it was turned (see `data.planes`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from dsdiff.preprocessing.normalize import Prepared


@dataclass(frozen=True)
class Box:
    """Where a slice's brain lies in a prepared case: first corner and size. May reach beyond it (zeros there)."""

    z: int
    x: int
    y: int
    h: int
    w: int


@dataclass(frozen=True)
class SliceBatch:
    """Slices of one shape. sources: robust z-scores, contrasts in the order they were asked for. brain: where it is.

    absent: numbers of the contrasts that the case does not have.
    """

    boxes: tuple[Box, ...]
    sources: Float[np.ndarray, "b s d h w"]
    brain: Bool[np.ndarray, "b 1 h w"]
    absent: tuple[int, ...] = ()


def boxes(brain: Bool[np.ndarray, "x y z"], multiple: int) -> list[Box]:
    """The box of every slice that holds brain, grown about its centre to multiples of `multiple`."""
    found = []
    for z in np.flatnonzero(brain.any((0, 1))):
        rows, columns = np.flatnonzero(brain[:, :, z].any(1)), np.flatnonzero(brain[:, :, z].any(0))
        (x, h), (y, w) = (_grow(int(edges[0]), int(edges[-1]) + 1, multiple) for edges in (rows, columns))
        found.append(Box(int(z), x, y, h, w))
    return found


def _grow(start: int, stop: int, multiple: int) -> tuple[int, int]:
    size = -(-(stop - start) // multiple) * multiple
    return start - (size - (stop - start)) // 2, size


@dataclass(frozen=True)
class Stack:
    """Contrasts stacked, slices first, zero beyond the brain's box; NaN for an absent one, so that whoever reads it by
    mistake will notice.
    """

    images: Shaped[np.ndarray, "s z x y"]

    def take(self, box: Box, slab: int) -> Shaped[np.ndarray, "s d h w"]:
        """One slice with its neighbours, zero beyond the brain's box."""
        out = np.zeros((len(self.images), slab, box.h, box.w), self.images.dtype)
        begin = (box.z - slab // 2, box.x, box.y)
        into, of = [slice(None)], [slice(None)]
        for start, size, there in zip(begin, out.shape[1:], self.images.shape[1:], strict=True):
            first = max(start, 0)
            last = max(first, min(start + size, there))
            into.append(slice(first - start, last - start))
            of.append(slice(first, last))
        out[tuple(into)] = self.images[tuple(of)]
        return out


def stack(prepared: Prepared, contrasts: Sequence[str]) -> Stack:
    """Contrasts of a case, ready for slices to be taken."""
    absent = np.broadcast_to(np.float32(np.nan), prepared.brain.shape)
    return _stacked([prepared.images.get(contrast, absent) for contrast in contrasts])


def mask(prepared: Prepared) -> Stack:
    """The brain of a case, ready for slices to be taken."""
    return _stacked([prepared.brain])


def _stacked(images: Sequence[Shaped[np.ndarray, "x y z"]]) -> Stack:
    return Stack(np.stack([image.transpose(2, 0, 1) for image in images]))


def add(volume: Float[np.ndarray, "x y z"], image: Float[np.ndarray, "h w"], box: Box) -> None:
    """Add one slice where `take` took it from; what lies beyond the volume is dropped."""
    x0, y0 = max(box.x, 0), max(box.y, 0)
    x1, y1 = min(box.x + box.h, volume.shape[0]), min(box.y + box.w, volume.shape[1])
    volume[x0:x1, y0:y1, box.z] += image[x0 - box.x : x1 - box.x, y0 - box.y : y1 - box.y]


def batches(
    prepared: Prepared, contrasts: Sequence[str], slab: int, multiple: int, batch_size: int
) -> Iterator[SliceBatch]:
    """All brain slices of a case, in batches of one shape, the largest shape first (so that memory peaks early)."""
    groups: dict[tuple[int, int], list[Box]] = defaultdict(list)
    for box in boxes(prepared.brain, multiple):
        groups[box.h, box.w].append(box)
    absent = tuple(i for i, contrast in enumerate(contrasts) if contrast not in prepared.images)
    stacked, brain = stack(prepared, contrasts), mask(prepared)
    for _, group in sorted(groups.items(), key=lambda item: -item[0][0] * item[0][1]):
        for start in range(0, len(group), batch_size):
            part = tuple(group[start : start + batch_size])
            sources = np.stack([stacked.take(box, slab) for box in part])
            yield SliceBatch(part, sources, np.concatenate([brain.take(box, 1) for box in part]), absent)
