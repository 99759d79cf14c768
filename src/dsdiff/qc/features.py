"""Features of a case: numbers that describe the shape of the head, its contrasts and their detail.

- shape: extent, symmetry and brightness of the brain along each axis;
- contrast: how the contrasts go with one another;
- detail: roughness of each contrast, and its sharpness across slices.
"""

import re
from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from dsdiff.preprocessing.normalize import PreprocessedCase
from dsdiff.volume import Mask3D, Volume3D

EROSION_MM = 4.0  # contrasts are compared this far below the surface: no skull, no residue of skull stripping
VOXEL_STRIDE = 7  # contrast features use every seventh voxel
TAIL_PERCENT = 4.0  # the darkest and brightest voxels of a contrast
FEATURE_GROUPS = ("shape", "contrast", "detail")
Features = dict[str, float]


def measure_features(case: PreprocessedCase) -> dict[str, Features]:
    """Measure the features of a case.

    Args:
        case: Preprocessed images on one grid with their brain mask. Absent contrasts have no features.

    Returns:
        Features by group and name. The group "t1 and t2" holds the contrast features after an exchange of the two.
    """
    brain, images = case.brain, dict(sorted(case.images.items()))
    erosion_steps = max(1, round(EROSION_MM / float(np.mean(case.spacing))))
    interior = ndimage.binary_erosion(brain, iterations=erosion_steps)
    interior = interior if interior.any() else brain
    voxels = {name: image[interior][::VOXEL_STRIDE] for name, image in images.items()}

    features = {
        "shape": _shape_features(brain, images, np.array(case.spacing)),
        "contrast": _contrast_features(voxels),
        "detail": _detail_features(images, interior),
    }
    for a, b in combinations(voxels, 2):
        features[f"{a} and {b}"] = _contrast_features(voxels | {a: voxels[b], b: voxels[a]})

    return features


def drop_contrasts(features: dict[str, Features], contrasts: Sequence[str]) -> dict[str, Features]:
    """Remove the features of some contrasts.

    Args:
        features: Features by group and name (see `measure_features`).
        contrasts: Names of the contrasts to remove.

    Returns:
        The features that the case has without these contrasts.
    """
    contrast_pattern = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in contrasts) or r"(?!)")
    groups = {group: values for group, values in features.items() if not contrast_pattern.search(group)}

    return {group: _drop_matching(values, contrast_pattern) for group, values in groups.items()}


def tabulate_features(cases: Sequence[Features]) -> tuple[tuple[str, ...], Float[np.ndarray, "p m"]]:
    """Arrange the features of several cases as a table.

    Args:
        cases: Features by name, one dictionary per case.

    Returns:
        Names of the m features that every case has, and their values, one row per case.
    """
    shared_names = set(cases[0]).intersection(*cases)
    names = tuple(name for name in cases[0] if name in shared_names)
    rows = [_feature_row(case, names) for case in cases]

    return names, np.array(rows)


def _feature_row(features: Features, names: Sequence[str]) -> list[float]:
    return [features[name] for name in names]


def _drop_matching(features: Features, pattern: re.Pattern[str]) -> Features:
    return {name: value for name, value in features.items() if not pattern.search(name)}


def _shape_features(brain: Mask3D, images: dict[str, Volume3D], spacing: Float[np.ndarray, " 3"]) -> Features:
    features = {"volume": float(np.log(brain.sum() * spacing.prod())), "fill": float(brain.mean())}

    for axis, name in enumerate(("left-right", "front-back", "top-bottom")):
        other_axes = tuple({0, 1, 2} - {axis})
        profile = brain.sum(other_axes) / brain.sum()
        position_mm = (np.arange(len(profile)) - profile @ np.arange(len(profile))) * spacing[axis]
        std_mm = max(float(np.sqrt(profile @ position_mm**2)), 1e-3)
        mirrored_brain = np.flip(brain, axis)

        features[f"extent {name}"] = float(len(profile) * spacing[axis])
        features[f"skewness {name}"] = float(profile @ (position_mm / std_mm) ** 3)
        features[f"symmetry {name}"] = float((brain & mirrored_brain).sum() / (brain | mirrored_brain).sum())
        if axis == 0:  # tumours lie on one side, so brightness from left to right says nothing
            continue
        for contrast, image in images.items():  # zero outside the brain
            brightness = image.clip(-5, 5).sum(other_axes) / brain.sum()
            features[f"brightness of {contrast} {name}"] = float(brightness @ position_mm / std_mm)

    return features


def _contrast_features(voxels: dict[str, Float[np.ndarray, " n"]]) -> Features:
    features = {}

    for a, b in combinations(voxels, 2):
        for name, clip in (("tissues", 1.5), ("tissues and fluid", 6.0)):
            features[f"correlation of {name} in {a}, {b}"] = _correlation(
                voxels[a].clip(-clip, clip), voxels[b].clip(-clip, clip)
            )

    for a, b in permutations(voxels, 2):
        low, high = np.percentile(voxels[a], (TAIL_PERCENT, 100 - TAIL_PERCENT))
        features[f"darkest of {a} in {b}"] = float(np.median(voxels[b][voxels[a] <= low]).clip(-8, 8))
        features[f"brightest of {a} in {b}"] = float(np.median(voxels[b][voxels[a] >= high]).clip(-8, 8))

    return features


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _detail_features(images: dict[str, Volume3D], interior: Mask3D) -> Features:
    features = {}
    for name, image in images.items():
        x, y, z = (_mean_curvature(image.clip(-10, 10), axis, interior) + 1e-6 for axis in range(3))
        features[f"roughness of {name}"] = float(np.log(x + y + z))
        features[f"detail across slices of {name}"] = float(np.log(z / np.sqrt(x * y)))

    return features


def _mean_curvature(image: Volume3D, axis: int, interior: Mask3D) -> float:
    """Return the mean absolute second difference along an axis."""
    second_difference = np.abs(ndimage.correlate1d(image, (1, -2, 1), axis, mode="nearest"))

    return float(second_difference[interior].mean())
