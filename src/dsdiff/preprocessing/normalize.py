"""From a case's volumes to what a network sees, with an exact inverse.

Axes are brought to RAS+ by permutation and flips only (nothing is resampled), the brain is T1's foreground, and each
contrast is centred on its brain's median and divided by its median absolute deviation: robust to a tumour, to the
agent and to outliers, and undone by one multiplication and one addition. What is kept is the brain's bounding box.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Shaped
from nibabel.orientations import inv_ornt_aff, io_orientation
from scipy import ndimage

from dsdiff.errors import InputError
from dsdiff.volume import Volume, from_canonical, to_canonical

GAUSSIAN = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
SMALL_BRAIN_ML, LARGE_BRAIN_ML, NO_BRAIN_ML = 400.0, 2200.0, 1.0
FEW_SLICES = 20
UNCOVERED_SHARE = 0.02  # of the brain, where a contrast holds nothing but its background: of 16 patients 0.003 at most
SPIKE = 1000.0  # robust widths from the median that nothing in a head reaches: in 16 patients 26 at most
UNSTRIPPED_SHARE = 0.6  # a skull-stripped brain fills at most half of its field of view


@dataclass(frozen=True)
class Scale:
    """z = (intensity - centre) / width."""

    centre: float
    width: float


@dataclass(frozen=True)
class Prepared:
    """A case as a network sees it, in the brain's bounding box: RAS+ axes, robust z-scores, zero outside the brain."""

    images: dict[str, Float[np.ndarray, "x y z"]]
    brain: Bool[np.ndarray, "x y z"]
    scales: dict[str, Scale]
    spacing: tuple[float, float, float]  # mm along the axes of the images
    corner: tuple[int, int, int]  # of the box in the whole volume, on RAS+ axes
    grid: Volume  # that of the inputs as they were read, and of every output; blank
    warnings: tuple[str, ...]
    hashes: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of the files it was read from, by contrast

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The brain's bounding box in the whole volume, on RAS+ axes."""
        x, y, z = (slice(at, at + n) for at, n in zip(self.corner, self.brain.shape, strict=True))
        return x, y, z

    def whole(self, image: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "X Y Z"]:
        """An image of the box in the whole volume, on RAS+ axes; zero beyond the box."""
        placed = np.zeros(to_canonical(self.grid).shape, image.dtype)
        placed[self.box] = image
        return placed

    def voxel(self, point: tuple[int, int, int]) -> tuple[int, int, int]:
        """Where a voxel of the box lies in the files that were read, whatever the order and direction of their axes."""
        back = inv_ornt_aff(io_orientation(self.grid.affine), self.grid.shape)
        x, y, z, _ = back @ (*(at + first for at, first in zip(point, self.corner, strict=True)), 1)
        return round(x), round(y), round(z)


def background(array: Float[np.ndarray, "x y z"]) -> float:
    """The value that most of the eight corners share."""
    values, counts = np.unique(
        array[:: max(array.shape[0] - 1, 1), :: max(array.shape[1] - 1, 1), :: max(array.shape[2] - 1, 1)],
        return_counts=True,
    )
    return float(values[counts.argmax()])


def find_brain(array: Float[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """The largest connected foreground of a skull-stripped image, its holes filled."""
    labels, n = ndimage.label(array != background(array))
    if n == 0:
        return np.zeros(array.shape, bool)
    largest = np.bincount(labels.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(labels == largest)


def robust_scale(array: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"]) -> Scale:
    """Median and (normal-consistent) median absolute deviation in the brain; the width is 0 for a constant image."""
    inside = array[brain]
    centre = float(np.median(inside))
    return Scale(centre, GAUSSIAN * float(np.median(np.abs(inside - centre))))


def apply(volumes: Mapping[str, Volume], reference: str = "t1") -> Prepared:
    """Prepare volumes that share one grid (see `cases.check_grids`); the brain is that of `reference`.

    Raises `InputError` where there is no brain, or a contrast is constant inside it or holds what no scanner measures.
    """
    canonical = {name: to_canonical(volume) for name, volume in volumes.items()}
    arrays = {name: volume.array for name, volume in canonical.items()}
    brain = find_brain(arrays[reference])
    ml = float(brain.sum() * np.prod(volumes[reference].spacing) / 1000)
    if ml < NO_BRAIN_ML:
        raise InputError(f"{reference} holds no brain: {ml:.1f} ml of it differ from the background")
    scales = {name: robust_scale(array, brain) for name, array in arrays.items()}
    if flat := [name for name, scale in scales.items() if scale.width <= 0]:
        raise InputError(f"{flat[0]} is constant over most of the brain; is it a mask or a label map?")
    for name, scale in scales.items():
        _refuse_spikes(name, arrays[name][brain], scale)
    x, y, z = map(float, canonical[reference].spacing)
    doubts = (*_doubts(brain, ml, (x, y, z)), *_guessed(volumes), *_twins(arrays), *_gaps(arrays, brain))
    box = ndimage.find_objects(brain.astype(np.int8))[0]
    inside = np.ascontiguousarray(brain[box])
    images = {name: _standardised(array[box], inside, scales[name]) for name, array in arrays.items()}
    i, j, k = (int(side.start) for side in box)
    return Prepared(images, inside, scales, (x, y, z), (i, j, k), volumes[reference].blank(), doubts)


def _standardised(
    array: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"], scale: Scale
) -> Float[np.ndarray, "x y z"]:
    image = np.zeros(array.shape, np.float32)
    image[brain] = (array[brain] - scale.centre) / scale.width
    return image


def _doubts(brain: Bool[np.ndarray, "x y z"], ml: float, spacing: tuple[float, float, float]) -> tuple[str, ...]:
    doubts = []
    if ml < SMALL_BRAIN_ML:
        doubts.append(f"the brain measures only {ml:.0f} ml")
    if ml > LARGE_BRAIN_ML or brain.mean() > UNSTRIPPED_SHARE:
        doubts.append(f"the foreground measures {ml:.0f} ml, {brain.mean():.0%} of the volume: was the skull removed?")
    if (n := int(brain.any((0, 1)).sum())) < FEW_SLICES:
        doubts.append(f"only {n} axial slices hold brain")
    if max(abs(size - 1) for size in spacing) > 0.25:
        size = " x ".join(f"{s:.2f}" for s in spacing)
        doubts.append(f"voxels measure {size} mm; the shipped models have seen 1 mm only")
    return tuple(doubts)


def _refuse_spikes(name: str, inside: Float[np.ndarray, " n"], scale: Scale) -> None:
    for value in (inside.min(), inside.max()):
        if (far := abs(value - scale.centre) / scale.width) > SPIKE:
            raise InputError(
                f"{name} holds {value:g} in the brain, {far:.0f} robust widths from its median {scale.centre:g}: "
                "nothing in a head is so bright or dark; was it divided by a bias field near zero?"
            )


def gap(array: Float[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """Where a contrast does not cover the brain, as where its field of view ends; a few voxels are no gap."""
    found = brain & (array == background(array))
    return found if found.sum() > UNCOVERED_SHARE * brain.sum() else np.zeros_like(brain)


def _gaps(arrays: Mapping[str, np.ndarray], brain: Bool[np.ndarray, "x y z"]) -> list[str]:
    shares = {name: gap(array, brain).sum() / brain.sum() for name, array in arrays.items()}
    return [
        f"{name} does not cover {share:.0%} of the brain: does its field of view end there?"
        for name, share in shares.items()
        if share
    ]


def _guessed(volumes: Mapping[str, Volume]) -> list[str]:
    lost = [name for name, volume in volumes.items() if not volume.oriented]
    return [f"the header of {', '.join(lost)} tells no orientation: left and right are a guess"] if lost else []


def _twins(arrays: Mapping[str, np.ndarray]) -> list[str]:
    pairs = [(a, b) for a, b in combinations(arrays, 2) if np.array_equal(arrays[a], arrays[b])]
    return [f"{a} and {b} are the same image: was one file given twice?" for a, b in pairs]


def restore(
    prepared: Prepared, image: Float[np.ndarray, "x y z"], contrast: str = "t1", *, spread: bool = False
) -> Volume:
    """Undo `apply`: z-scores back on the grid of the inputs, in the intensities of `contrast`, zero outside the brain.

    With `spread` the image is a standard deviation, which is scaled and not shifted.
    """
    scale = prepared.scales[contrast]
    values = image * scale.width + (0 if spread else scale.centre)
    return from_canonical(prepared.whole(np.where(prepared.brain, values, 0).astype(np.float32)), prepared.grid)
