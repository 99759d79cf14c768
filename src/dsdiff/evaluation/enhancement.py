"""Where a T1ce enhances, lesion by lesion: what was found, what was missed, and what is not there.

Enhancement is T1ce minus T1, both on the robust scale of the brain, so its unit is one robust standard deviation of the
brain's intensities and neither an intensity map nor the agent itself moves the scale. It is seen through a Gaussian
that evens out the noise of single voxels, and counts from THRESHOLD on, for the truth as for what was made.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy import ndimage, sparse

from dsdiff.evaluation.regions import Regions, bounding_box
from dsdiff.evaluation.voxelwise import Image, Mask

THRESHOLD = 1.5  # robust standard deviations
SMOOTH_MM = 1.0
SMALLEST_MM3 = 50.0  # a smaller component is noise
JOIN_MM = 2.0  # what lies no farther is one lesion, or the same place
NUMERICAL_MM = 1e-3  # an affine's float32 makes 1.0000001 mm of 1 mm
SURFACE_MM = 4.0  # below the brain's surface, where skull-stripping and registration imitate enhancement
FOUND_SHARE = 0.1  # of a true lesion's voxels must enhance for it to be found
Spacing = tuple[float, float, float]
TOUCHING = np.ones((3, 3, 3), bool)  # 26 neighbours


@dataclass(frozen=True)
class Enhancement:
    """Where what was made and what is true enhance, as thresholded maps, and the true lesions by number (0: none)."""

    made: Mask
    true: Mask
    lesions: Integer[np.ndarray, "x y z"]


def enhancement_map(image: Image, t1: Image, brain: Mask, spacing: Spacing) -> Image:
    """Smoothed enhancement in robust standard deviations, zero outside the brain; both inputs on the robust scale.

    The Gaussian is normalised by the brain it covers, so that nothing of the outside bleeds in.
    """
    out = np.zeros(brain.shape)
    box = bounding_box(brain, 0)
    sigma = [SMOOTH_MM / mm for mm in spacing]
    inside = brain[box].astype(np.float64)
    weight = ndimage.gaussian_filter(inside, sigma)
    out[box] = ndimage.gaussian_filter((image[box] - t1[box]) * inside, sigma) / np.maximum(weight, 1e-6) * inside
    return out


def components(mask: Mask, spacing: Spacing, join_mm: float = 0.0) -> Integer[np.ndarray, "x y z"]:
    """Connected components (26 neighbours) of SMALLEST_MM3 or more, numbered from 1; with `join_mm`, those with no more
    than so many mm of other voxels between them are one."""
    numbered = np.zeros(mask.shape, np.int32)
    if not mask.any():
        return numbered
    box = bounding_box(mask, 1)
    labels = ndimage.label(mask[box], TOUCHING)[0]
    if join_mm:
        labels = _joined(labels, spacing, join_mm)
    sizes = np.bincount(labels.ravel()) * float(np.prod(spacing))
    kept = sizes >= SMALLEST_MM3
    kept[0] = False
    numbered[box] = (np.cumsum(kept) * kept)[labels]
    return numbered


def _joined(labels: Integer[np.ndarray, "x y z"], spacing: Spacing, mm: float) -> Integer[np.ndarray, "x y z"]:
    """Components with no more than so many mm of other voxels between them as one, numbered anew."""
    margin, pairs = 2 + int(np.ceil(mm / min(spacing))), []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        around = labels[tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)]
        reached = near(ndimage.binary_dilation(around == number, TOUCHING), spacing, mm)
        pairs += [(number, other) for other in np.unique(around[reached]) if other > number]
    n = int(labels.max()) + 1
    links = sparse.coo_array((np.ones(len(pairs)), tuple(np.array(pairs, int).reshape(-1, 2).T)), (n, n))
    group = sparse.csgraph.connected_components(links, directed=False)[1] + 1
    return np.where(labels > 0, group[labels], 0)


def near(mask: Mask, spacing: Spacing, mm: float) -> Mask:
    """The voxels within a distance of a mask, itself included; nothing for an empty mask."""
    if not mask.any():
        return np.zeros_like(mask)
    mm += NUMERICAL_MM
    box = bounding_box(mask, 1 + int(np.ceil(mm / min(spacing))))
    out = np.zeros_like(mask)
    out[box] = ndimage.distance_transform_edt(~mask[box], sampling=spacing) <= mm
    return out


def compare(image: Image, truth: Image, t1: Image, regions: Regions, spacing: Spacing) -> Enhancement:
    """Enhancement made and true; all three images on the robust scale."""
    made = enhancement_map(image, t1, regions.brain, spacing) > THRESHOLD
    true = enhancement_map(truth, t1, regions.brain, spacing) > THRESHOLD
    return Enhancement(made, true, components(regions.enhancing, spacing, JOIN_MM))


def false_enhancement(found: Enhancement, regions: Regions, spacing: Spacing) -> tuple[int, Mask]:
    """How many lesions were made that are not there, and every voxel that enhances where nothing does.

    Of the components of what was made, deeper in the brain than SURFACE_MM: those that come nowhere within JOIN_MM of
    true enhancement, by the true map or by the segmentation, are lesions that are not there; of the others, what lies
    farther than that is false as well.
    """
    deep = np.zeros_like(regions.brain)
    box = bounding_box(regions.brain, 1)
    deep[box] = ndimage.distance_transform_edt(regions.brain[box], sampling=spacing) > SURFACE_MM + NUMERICAL_MM
    made = components(found.made & deep, spacing)
    excused = near(found.true | regions.enhancing, spacing, JOIN_MM)
    touching = np.union1d(made[excused], 0)
    return len(np.setdiff1d(made, touching)), (made > 0) & ~excused


def detected(found: Enhancement) -> Float[np.ndarray, " n"]:
    """For each true lesion the share of its voxels that enhance in what was made."""
    n = int(found.lesions.max())
    inside = found.lesions > 0
    sizes = np.bincount(found.lesions[inside], minlength=n + 1)[1:]
    hits = np.bincount(found.lesions[inside & found.made], minlength=n + 1)[1:]
    return hits / np.maximum(sizes, 1)


def score(image: Image, truth: Image, t1: Image, regions: Regions, spacing: Spacing) -> dict[str, float]:
    """Lesions found and missed, false enhancement, and volumes in ml, made and true, inside the tumour.

    Images on the robust scale of the brain. NaN: lesions and volumes without a segmentation of a tumour, `detection`
    without a true lesion.
    """
    found = compare(image, truth, t1, regions, spacing)
    ml = float(np.prod(spacing)) / 1000
    lesions, voxels = false_enhancement(found, regions, spacing)
    scores = {"false_lesions": float(lesions), "false_ml": float(voxels.sum() * ml)}
    if not regions.tumour.any():
        names = ("lesions", "lesions_found", "detection", "enhancing_ml", "enhancing_ml_truth", "enhancing_ml_label")
        return dict.fromkeys(names, float("nan")) | scores
    shares = detected(found)
    hits = float((shares >= FOUND_SHARE).sum())
    return {
        "lesions": float(len(shares)),
        "lesions_found": hits,
        "detection": hits / len(shares) if len(shares) else float("nan"),
        "enhancing_ml": float((found.made & regions.tumour).sum() * ml),
        "enhancing_ml_truth": float((found.true & regions.tumour).sum() * ml),
        "enhancing_ml_label": float(regions.enhancing.sum() * ml),
    } | scores
