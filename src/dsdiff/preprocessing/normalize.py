"""From a case's volumes to the network's input, with an exact inverse (`geometry.Geometry`).

Axes are brought to RAS+ by permutation and flips only; nothing is resampled. The brain is the foreground of one
contrast (T1). Each contrast is centered on the median of its brain and divided by its median absolute deviation.
These are robust to tumours, contrast agent and outliers, and one multiplication and one addition undo them.
Images are cropped to the brain's bounding box.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from dsdiff.errors import InputError
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing.geometry import Geometry, IntensityScale
from dsdiff.volume import Mask3D, Volume, Volume3D, VoxelSpacing, header_warnings

MAD_TO_STD = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
EMPTY_BRAIN_ML = 1.0  # a smaller foreground is no brain: an error
MIN_BRAIN_ML, MAX_BRAIN_ML = 400.0, 2200.0  # a warning outside this range
MIN_BRAIN_SLICES = 20  # axial; a warning for fewer
MAX_SPACING_DEVIATION_MM = 0.25  # from 1 mm; a warning beyond
MAX_UNCOVERED_FRACTION = 0.02  # of the brain, where a contrast holds only background: of 16 patients 0.003 at most
MAX_DEVIATION = 1000.0  # robust widths from the median that nothing in a head reaches: in 16 patients 26 at most
MAX_BRAIN_FRACTION = 0.6  # a skull-stripped brain fills at most half of its field of view


@dataclass(frozen=True)
class PreprocessedCase:
    """The network's input: the brain's bounding box on RAS+ axes.

    Attributes:
        images: Contrast -> (x, y, z) robust z-scores, zero outside the brain.
        brain: (x, y, z) brain mask.
        spacing: Voxel size in mm along x, y, z.
        warnings: What is unusual about the input, one sentence each.
    """

    images: dict[str, Volume3D]
    brain: Mask3D
    spacing: VoxelSpacing
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedCase:
    """A preprocessed case and where it lies in the files that it was read from."""

    case: PreprocessedCase
    geometry: Geometry


def preprocess(volumes: Mapping[str, Volume], reference: str = "t1") -> LoadedCase:
    """Preprocess the volumes of one case.

    Args:
        volumes: Contrast -> volume; all share one grid (see `io.cases.check_grids`).
        reference: The contrast whose foreground is the brain.

    Returns:
        The network's input and its geometry.

    Raises:
        InputError: If there is no brain, or a contrast is constant in it or holds values that no scanner measures.
    """
    canonical = {contrast: to_canonical(volume) for contrast, volume in volumes.items()}
    arrays = {contrast: volume.array for contrast, volume in canonical.items()}

    brain = find_brain(arrays[reference])
    brain_ml = float(brain.sum() * np.prod(volumes[reference].spacing) / 1000)
    if brain_ml < EMPTY_BRAIN_ML:
        raise InputError(
            f"{reference} holds no brain: only {brain_ml:.1f} ml of it differ from the background; "
            "give a skull-stripped image with a constant background"
        )

    scales = {contrast: robust_scale(array, brain) for contrast, array in arrays.items()}
    for contrast, scale in scales.items():
        _check_intensities(contrast, arrays[contrast][brain], scale)

    x_mm, y_mm, z_mm = map(float, canonical[reference].spacing)
    warnings = (
        *_brain_warnings(brain, brain_ml, (x_mm, y_mm, z_mm)),
        *header_warnings(volumes),
        *_duplicate_warnings(arrays),
        *_coverage_warnings(arrays, brain),
    )

    box = ndimage.find_objects(brain.astype(np.int8))[0]
    cropped_brain = np.ascontiguousarray(brain[box])
    images = {contrast: _zscore(array[box], cropped_brain, scales[contrast]) for contrast, array in arrays.items()}
    case = PreprocessedCase(images, cropped_brain, (x_mm, y_mm, z_mm), warnings)

    x, y, z = (int(side.start) for side in box)
    width, height, depth = cropped_brain.shape
    return LoadedCase(case, Geometry(scales, (x, y, z), (width, height, depth), volumes[reference].blank()))


def find_brain(array: Volume3D) -> Mask3D:
    """Find the brain of a skull-stripped image: the largest connected foreground, its holes filled.

    Args:
        array: (x, y, z) intensities with a constant background.

    Returns:
        (x, y, z) mask, empty if the image is constant.
    """
    labels, n_components = ndimage.label(array != background_value(array))
    if n_components == 0:
        return np.zeros(array.shape, bool)
    largest = np.bincount(labels.ravel())[1:].argmax() + 1
    return ndimage.binary_fill_holes(labels == largest)


def background_value(array: Volume3D) -> float:
    """Estimate the intensity of the background.

    Args:
        array: (x, y, z) intensities.

    Returns:
        The most frequent value of the eight corners.
    """
    corners = array[:: max(array.shape[0] - 1, 1), :: max(array.shape[1] - 1, 1), :: max(array.shape[2] - 1, 1)]
    values, counts = np.unique(corners, return_counts=True)
    return float(values[counts.argmax()])


def robust_scale(array: Volume3D, brain: Mask3D) -> IntensityScale:
    """Measure the intensity scale of a contrast in the brain.

    Args:
        array: (x, y, z) intensities.
        brain: (x, y, z) mask.

    Returns:
        Median and median absolute deviation, scaled to the standard deviation of a normal distribution. The width is
        0 for a constant image.
    """
    intensities = array[brain]
    center = float(np.median(intensities))
    return IntensityScale(center, MAD_TO_STD * float(np.median(np.abs(intensities - center))))


def uncovered_brain(array: Volume3D, brain: Mask3D) -> Mask3D:
    """Find the part of the brain that a contrast does not cover, e.g. beyond the end of its field of view.

    Args:
        array: (x, y, z) intensities of the contrast.
        brain: (x, y, z) mask.

    Returns:
        (x, y, z) mask; empty if the part is at most `MAX_UNCOVERED_FRACTION` of the brain.
    """
    uncovered = brain & (array == background_value(array))
    return uncovered if uncovered.sum() > MAX_UNCOVERED_FRACTION * brain.sum() else np.zeros_like(brain)


def _zscore(array: Volume3D, brain: Mask3D, scale: IntensityScale) -> Volume3D:
    image = np.zeros(array.shape, np.float32)
    image[brain] = (array[brain] - scale.center) / scale.width
    return image


def _check_intensities(contrast: str, intensities: Float[np.ndarray, " n"], scale: IntensityScale) -> None:
    """Raise `InputError` for a contrast that is constant in the brain, or has values far from its median."""
    if scale.width <= 0:
        raise InputError(
            f"{contrast} is constant over most of the brain; an acquired image is needed: is it a mask or a label map?"
        )
    for value in (intensities.min(), intensities.max()):
        deviation = abs(value - scale.center) / scale.width
        if deviation > MAX_DEVIATION:
            raise InputError(
                f"{contrast} holds {value:g} in the brain, {deviation:.0f} robust widths from its median "
                f"{scale.center:g}; no tissue reaches {MAX_DEVIATION:g}: was it divided by a bias field near zero?"
            )


def _brain_warnings(brain: Mask3D, brain_ml: float, spacing: VoxelSpacing) -> list[str]:
    """Warnings about the size of the brain and of its voxels."""
    warnings = []

    if brain_ml < MIN_BRAIN_ML:
        warnings.append(f"the brain measures only {brain_ml:.0f} ml; {MIN_BRAIN_ML:.0f} ml or more were expected")
    if brain_ml > MAX_BRAIN_ML or brain.mean() > MAX_BRAIN_FRACTION:
        warnings.append(
            f"the foreground measures {brain_ml:.0f} ml, {brain.mean():.0%} of the volume: was the skull removed?"
        )

    n_slices = int(brain.any((0, 1)).sum())
    if n_slices < MIN_BRAIN_SLICES:
        warnings.append(f"only {n_slices} axial slices hold brain; {MIN_BRAIN_SLICES} or more were expected")

    if max(abs(size - 1) for size in spacing) > MAX_SPACING_DEVIATION_MM:
        size = " x ".join(f"{s:.2f}" for s in spacing)
        warnings.append(f"voxels measure {size} mm; the shipped models were trained on 1 mm only")
    return warnings


def _duplicate_warnings(arrays: Mapping[str, np.ndarray]) -> list[str]:
    duplicates = [(a, b) for a, b in combinations(arrays, 2) if np.array_equal(arrays[a], arrays[b])]
    return [f"{a} and {b} are the same image: was one file given twice?" for a, b in duplicates]


def _coverage_warnings(arrays: Mapping[str, np.ndarray], brain: Mask3D) -> list[str]:
    warnings = []
    for contrast, array in arrays.items():
        fraction = uncovered_brain(array, brain).sum() / brain.sum()
        if fraction > 0:
            warnings.append(f"{contrast} does not cover {fraction:.0%} of the brain: does its field of view end there?")
    return warnings
