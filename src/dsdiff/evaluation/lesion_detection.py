"""Lesion-wise detection: which enhancing lesions a synthetic T1ce shows, which it misses, and which it invents."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage

from dsdiff.evaluation.enhancement import (
    ENHANCEMENT_THRESHOLD,
    ROUNDING_TOLERANCE_MM,
    dilate_mm,
    enhancement_map,
    label_components,
)
from dsdiff.evaluation.regions import Regions, bounding_box
from dsdiff.volume import Mask3D, Volume3D, VoxelSpacing

MERGE_DISTANCE_MM = 2.0  # parts with a smaller gap are one lesion; a smaller displacement is the same place
SURFACE_MARGIN_MM = 4.0  # below the brain's surface, where skull-stripping and registration imitate enhancement
MIN_DETECTED_FRACTION = 0.1  # of a true lesion's voxels must enhance for it to be detected
LESION_SCORES = ("lesions", "lesions_found", "detection", "enhancing_ml", "enhancing_ml_truth", "enhancing_ml_label")


@dataclass(frozen=True)
class EnhancementMasks:
    """Where the synthetic and the acquired T1ce enhance, and the segmented lesions by number (0: none)."""

    synthetic: Mask3D
    acquired: Mask3D
    lesions: Integer[np.ndarray, "x y z"]


def detect_enhancement(
    image: Volume3D, truth: Volume3D, t1: Volume3D, regions: Regions, spacing: VoxelSpacing
) -> EnhancementMasks:
    """Threshold the enhancement of both volumes, and label the segmented lesions.

    Args:
        image: The synthetic T1ce, as robust z-scores.
        truth: The acquired T1ce, as robust z-scores.
        t1: The T1, as robust z-scores.
        regions: Brain and tumour masks on the same grid.
        spacing: Voxel size in mm along x, y, z.

    Returns:
        The masks.
    """
    return EnhancementMasks(
        synthetic=enhancement_map(image, t1, regions.brain, spacing) > ENHANCEMENT_THRESHOLD,
        acquired=enhancement_map(truth, t1, regions.brain, spacing) > ENHANCEMENT_THRESHOLD,
        lesions=label_components(regions.enhancing, spacing, MERGE_DISTANCE_MM),
    )


def find_false_enhancement(masks: EnhancementMasks, regions: Regions, spacing: VoxelSpacing) -> tuple[int, Mask3D]:
    """Find synthetic enhancement where nothing enhances, deeper in the brain than SURFACE_MARGIN_MM.

    A component that comes nowhere within MERGE_DISTANCE_MM of true enhancement, acquired or segmented, is a false
    lesion. Of the other components, the voxels beyond that distance are false as well.

    Args:
        masks: Enhancement of both volumes.
        regions: Brain and tumour masks on the same grid.
        spacing: Voxel size in mm along x, y, z.

    Returns:
        The number of false lesions, and the mask of all false voxels.
    """
    is_deep = np.zeros_like(regions.brain)
    box = bounding_box(regions.brain, 1)
    depth_mm = ndimage.distance_transform_edt(regions.brain[box], sampling=spacing)
    is_deep[box] = depth_mm > SURFACE_MARGIN_MM + ROUNDING_TOLERANCE_MM

    components = label_components(masks.synthetic & is_deep, spacing)
    near_truth = dilate_mm(masks.acquired | regions.enhancing, spacing, MERGE_DISTANCE_MM)
    touching_truth = np.union1d(components[near_truth], 0)
    n_false_lesions = len(np.setdiff1d(components, touching_truth))
    return n_false_lesions, (components > 0) & ~near_truth


def enhancing_fractions(masks: EnhancementMasks) -> Float[np.ndarray, " n"]:
    """Compute which fraction of each segmented lesion enhances in the synthetic volume.

    Args:
        masks: Enhancement of both volumes.

    Returns:
        One fraction, 0 to 1, per lesion.
    """
    n_lesions = int(masks.lesions.max())
    inside = masks.lesions > 0
    sizes = np.bincount(masks.lesions[inside], minlength=n_lesions + 1)[1:]
    hits = np.bincount(masks.lesions[inside & masks.synthetic], minlength=n_lesions + 1)[1:]
    return hits / np.maximum(sizes, 1)


def score_lesions(
    image: Volume3D, truth: Volume3D, t1: Volume3D, regions: Regions, spacing: VoxelSpacing
) -> dict[str, float]:
    """Score detection lesion by lesion, false enhancement, and enhancing volumes inside the tumour.

    Args:
        image: The synthetic T1ce, as robust z-scores.
        truth: The acquired T1ce, as robust z-scores.
        t1: The T1, as robust z-scores.
        regions: Brain and tumour masks on the same grid.
        spacing: Voxel size in mm along x, y, z.

    Returns:
        `false_lesions`, `false_ml`, and the scores of LESION_SCORES (volumes in ml). The latter are NaN without a
        segmented tumour, and `detection` is NaN without an enhancing lesion.
    """
    masks = detect_enhancement(image, truth, t1, regions, spacing)
    ml_per_voxel = float(np.prod(spacing)) / 1000
    n_false_lesions, false_voxels = find_false_enhancement(masks, regions, spacing)
    false_scores = {"false_lesions": float(n_false_lesions), "false_ml": float(false_voxels.sum() * ml_per_voxel)}
    if not regions.tumour.any():
        return dict.fromkeys(LESION_SCORES, float("nan")) | false_scores

    fractions = enhancing_fractions(masks)
    n_found = float((fractions >= MIN_DETECTED_FRACTION).sum())
    lesion_scores = {
        "lesions": float(len(fractions)),
        "lesions_found": n_found,
        "detection": n_found / len(fractions) if len(fractions) else float("nan"),
        "enhancing_ml": float((masks.synthetic & regions.tumour).sum() * ml_per_voxel),
        "enhancing_ml_truth": float((masks.acquired & regions.tumour).sum() * ml_per_voxel),
        "enhancing_ml_label": float(regions.enhancing.sum() * ml_per_voxel),
    }
    return lesion_scores | false_scores
