"""Maps of enhancement and their connected components.

Enhancement is T1ce minus T1, both on the robust scale of the brain. Its unit is one robust standard deviation of the
brain's intensities, which neither an intensity map nor the contrast agent moves. A Gaussian evens out the noise of
single voxels. Enhancement counts from THRESHOLD on, in the synthetic as in the acquired volume.
"""

import numpy as np
from jaxtyping import Integer
from scipy import ndimage, sparse

from dsdiff.evaluation.regions import bounding_box
from dsdiff.volume import Mask3D, Volume3D, VoxelSpacing

ENHANCEMENT_THRESHOLD = 1.5  # robust standard deviations
SMOOTHING_MM = 1.0
MIN_COMPONENT_MM3 = 50.0  # a smaller component is noise
ROUNDING_TOLERANCE_MM = 1e-3  # float32 affines turn 1 mm into 1.0000001 mm
CONNECTIVITY_26 = np.ones((3, 3, 3), bool)


def enhancement_map(image: Volume3D, t1: Volume3D, brain: Mask3D, spacing: VoxelSpacing) -> Volume3D:
    """Compute the smoothed enhancement.

    The Gaussian is normalized by the part of it that lies in the brain, so that no background bleeds in.

    Args:
        image: T1ce, as robust z-scores.
        t1: T1, as robust z-scores.
        brain: The brain mask.
        spacing: Voxel size in mm along x, y, z.

    Returns:
        Enhancement in robust standard deviations, zero outside the brain.
    """
    smoothed = np.zeros(brain.shape)
    box = bounding_box(brain, 0)
    sigma = [SMOOTHING_MM / mm for mm in spacing]
    inside = brain[box].astype(np.float64)
    weight = ndimage.gaussian_filter(inside, sigma)
    difference = ndimage.gaussian_filter((image[box] - t1[box]) * inside, sigma)
    smoothed[box] = difference / np.maximum(weight, 1e-6) * inside
    return smoothed


def label_components(mask: Mask3D, spacing: VoxelSpacing, merge_mm: float = 0.0) -> Integer[np.ndarray, "x y z"]:
    """Label the connected components (26 neighbors) of a mask.

    Args:
        mask: The mask.
        spacing: Voxel size in mm along x, y, z.
        merge_mm: Components with a gap of at most this many mm are one; 0 merges none.

    Returns:
        Labels from 1 for components of at least MIN_COMPONENT_MM3, 0 elsewhere.
    """
    numbered = np.zeros(mask.shape, np.int32)
    if not mask.any():
        return numbered

    box = bounding_box(mask, 1)
    labels = ndimage.label(mask[box], CONNECTIVITY_26)[0]
    if merge_mm:
        labels = _merge_close_components(labels, spacing, merge_mm)

    sizes_mm3 = np.bincount(labels.ravel()) * float(np.prod(spacing))
    is_large = sizes_mm3 >= MIN_COMPONENT_MM3
    is_large[0] = False
    numbered[box] = (np.cumsum(is_large) * is_large)[labels]
    return numbered


def _merge_close_components(
    labels: Integer[np.ndarray, "x y z"], spacing: VoxelSpacing, gap_mm: float
) -> Integer[np.ndarray, "x y z"]:
    """Give one label to components with a gap of at most `gap_mm`."""
    margin = 2 + int(np.ceil(gap_mm / min(spacing)))
    pairs: list[tuple[int, int]] = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        neighborhood = labels[tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)]
        touching = ndimage.binary_dilation(neighborhood == number, CONNECTIVITY_26)
        reached = neighborhood[dilate_mm(touching, spacing, gap_mm)]
        pairs += [(number, neighbor) for neighbor in np.unique(reached) if neighbor > number]

    n = int(labels.max()) + 1
    rows_and_columns = tuple(np.array(pairs, int).reshape(-1, 2).T)
    links = sparse.coo_array((np.ones(len(pairs)), rows_and_columns), (n, n))
    group = sparse.csgraph.connected_components(links, directed=False)[1] + 1
    return np.where(labels > 0, group[labels], 0)


def dilate_mm(mask: Mask3D, spacing: VoxelSpacing, distance_mm: float) -> Mask3D:
    """Dilate a mask by a distance.

    Args:
        mask: The mask.
        spacing: Voxel size in mm along x, y, z.
        distance_mm: The distance in mm.

    Returns:
        All voxels within the distance of the mask, itself included; empty for an empty mask.
    """
    if not mask.any():
        return np.zeros_like(mask)
    distance_mm += ROUNDING_TOLERANCE_MM
    box = bounding_box(mask, 1 + int(np.ceil(distance_mm / min(spacing))))
    dilated = np.zeros_like(mask)
    dilated[box] = ndimage.distance_transform_edt(~mask[box], sampling=spacing) <= distance_mm
    return dilated
