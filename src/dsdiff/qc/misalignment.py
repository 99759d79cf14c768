"""Detect contrasts that are not co-registered: find the shift that aligns the edges of one contrast with another."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from dsdiff.preprocessing.normalize import PreprocessedCase
from dsdiff.volume import Mask3D, Volume3D

SEARCH_STEP_MM = 2.0
MAX_SHIFT_MM = 10.0
WARN_SHIFT_MM = 4.0  # patients of registered collections lie within 2 mm
EROSION_MM = 6.0  # the skull-stripped surface is common to all contrasts, however they are shifted
MIN_VOXELS = 100  # of a correlation
DIRECTIONS = (("left", "right"), ("back", "front"), ("down", "up"))


def estimate_shift(case: PreprocessedCase, contrast: str, reference: str) -> tuple[float, float, float]:
    """Estimate the displacement of a contrast from a reference contrast.

    The search goes axis by axis, in steps of `SEARCH_STEP_MM`. It maximizes the correlation of edge strength inside
    the brain.

    Args:
        case: Preprocessed images on one grid with their brain mask.
        contrast: Name of the contrast that may be shifted.
        reference: Name of the contrast that it is compared with.

    Returns:
        Displacement along x, y, z in mm, each from -`MAX_SHIFT_MM` to `MAX_SHIFT_MM`.
    """
    spacing = np.array(case.spacing)
    strides = [max(1, round(SEARCH_STEP_MM / size)) for size in spacing]
    search_grid = tuple(slice(None, None, stride) for stride in strides)
    step_mm = spacing * strides

    erosion_steps = max(1, round(EROSION_MM / float(spacing.mean())))
    interior = ndimage.binary_erosion(case.brain, iterations=erosion_steps)[search_grid]
    fixed, moving = (_edge_strength(case.images[name])[search_grid] for name in (reference, contrast))

    shift, best_correlation = [0, 0, 0], _shifted_correlation(fixed, moving, interior, (0, 0, 0))
    previous_shift = None
    while previous_shift != shift:
        previous_shift = shift
        for axis in range(3):
            max_steps = int(MAX_SHIFT_MM // step_mm[axis])
            for steps in range(-max_steps, max_steps + 1):
                candidate = [*shift[:axis], steps, *shift[axis + 1 :]]
                correlation = _shifted_correlation(fixed, moving, interior, candidate)
                if correlation > best_correlation:
                    shift, best_correlation = candidate, correlation

    x, y, z = (float(-steps * size) for steps, size in zip(shift, step_mm, strict=True))
    return x, y, z


def misalignment_warnings(case: PreprocessedCase, reference: str) -> tuple[str, ...]:
    """Describe the contrasts that are displaced by `WARN_SHIFT_MM` or more.

    Args:
        case: Preprocessed images on one grid with their brain mask.
        reference: Name of the contrast that the others are compared with.

    Returns:
        One message per displaced contrast.
    """
    messages = []
    for name in sorted(set(case.images) - {reference}):
        shift = estimate_shift(case, name, reference)
        if max(map(abs, shift)) >= WARN_SHIFT_MM:
            messages.append(
                f"{name} seems to lie {_describe_shift(shift)} of {reference}: are the contrasts co-registered?"
            )

    return tuple(messages)


def _describe_shift(shift: tuple[float, float, float]) -> str:
    axes = zip(shift, DIRECTIONS, strict=True)
    return ", ".join(f"{abs(mm):.0f} mm {direction[mm > 0]}" for mm, direction in axes if mm)


def _edge_strength(image: Volume3D) -> Volume3D:
    return ndimage.gaussian_gradient_magnitude(image.clip(-5, 5), 1.0)


def _shifted_correlation(
    fixed: Volume3D,
    moving: Volume3D,
    interior: Mask3D,
    shift: Sequence[int],
) -> float:
    """Correlate two images inside a region, the second one shifted by so many voxels; -1 if there are too few."""
    fixed_window = tuple(slice(max(0, n), None if n >= 0 else n) for n in shift)
    moving_window = tuple(slice(max(0, -n), None if n <= 0 else -n) for n in shift)
    overlap = interior[fixed_window] & interior[moving_window]
    a, b = fixed[fixed_window][overlap], moving[moving_window][overlap]
    is_defined = len(a) > MIN_VOXELS and a.std() > 0 and b.std() > 0

    return float(np.corrcoef(a, b)[0, 1]) if is_defined else -1.0
