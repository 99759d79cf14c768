"""Structural similarity in 3-D, at one scale (SSIM) and at several (MS-SSIM), with separable Gaussian windows.

If both images are zero over a whole window the similarity is 1, so only the box with other values is computed.
"""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from dsdiff.evaluation.regions import bounding_box
from dsdiff.volume import Mask3D, Volume3D

SIGMA, RADIUS = 1.5, 5  # voxels: 11 taps
K1, K2 = 0.01, 0.03
# The first four of Wang's five exponents, scaled to sum to one: at the fifth scale 155 slices are 9, less than a window
EXPONENTS = tuple(np.array([0.0448, 0.2856, 0.3001, 0.2363]) / 0.8668)


def ssim_maps(image: Volume3D, truth: Volume3D, peak: float) -> tuple[Volume3D, Volume3D]:
    """Compute the map of SSIM and of its contrast-and-structure part, one window per voxel.

    Args:
        image: The synthetic volume.
        truth: The acquired volume, on the same intensity scale.
        peak: The data range.

    Returns:
        SSIM, and its contrast-and-structure factor, both -1 to 1. Windows are mirrored at the volume's border.

    Source: Wang et al. 2004 (doi:10.1109/TIP.2003.819861), eq. 6, 9 and 13: 3-D Gaussian windows of 1.5 voxels,
    population covariance.
    """
    similarity, structure = np.ones(image.shape), np.ones(image.shape)
    is_nonzero = (image != 0) | (truth != 0)
    if not is_nonzero.any():
        return similarity, structure

    box = bounding_box(is_nonzero, RADIUS + 1)  # every window outside the box contains only zeros
    x, y = image[box].astype(np.float64), truth[box].astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance = _blur(x * y) - product
    variances = _blur(x * x + y * y) - squares  # var(x) + var(y): a window is linear

    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    structure[box] = (2 * covariance + c2) / (variances + c2)
    similarity[box] = structure[box] * (2 * product + c1) / (squares + c1)
    return similarity, structure


def _blur(image: Volume3D) -> Volume3D:
    return ndimage.gaussian_filter(image, SIGMA, radius=RADIUS)


def interior_mask(shape: tuple[int, ...]) -> Mask3D:
    """Mark the voxels whose window lies within the volume.

    Args:
        shape: Shape of the volume.

    Returns:
        False within 5 voxels of the border.
    """
    inside = np.zeros(shape, bool)
    inside[tuple(slice(RADIUS, max(n - RADIUS, RADIUS)) for n in shape)] = True
    return inside


def mean_over(values: Volume3D, region: Mask3D) -> float:
    """Average a map over a region.

    Args:
        values: The map.
        region: The voxels to average.

    Returns:
        The mean; NaN for an empty region.
    """
    return float(values[region].mean()) if region.any() else float("nan")


def ssim(image: Volume3D, truth: Volume3D, region: Mask3D, peak: float) -> float:
    """Compute the mean SSIM over a region, as scikit-image does.

    Equals `structural_similarity` with `gaussian_weights=True, use_sample_covariance=False`.

    Args:
        image: The synthetic volume.
        truth: The acquired volume, on the same intensity scale.
        region: The voxels to average.
        peak: The data range.

    Returns:
        -1 to 1; NaN for an empty region.
    """
    return mean_over(ssim_maps(image, truth, peak)[0], region)


def ms_ssim_maps(
    image: Volume3D, truth: Volume3D, peak: float, first_maps: tuple[Volume3D, Volume3D] | None = None
) -> list[np.ndarray]:
    """Compute the maps that MS-SSIM averages.

    Args:
        image: The synthetic volume.
        truth: The acquired volume, on the same intensity scale.
        peak: The data range.
        first_maps: `ssim_maps` of these images, if already computed.

    Returns:
        One map per scale, each of half the size: contrast and structure, but SSIM at the coarsest.
    """
    similarity, structure = first_maps if first_maps is not None else ssim_maps(image, truth, peak)
    levels = [structure]
    for _ in EXPONENTS[1:]:
        image, truth = halve(image), halve(truth)
        similarity, structure = ssim_maps(image, truth, peak)
        levels.append(structure)
    return [*levels[:-1], similarity]


def halve(image: Volume3D) -> Float[np.ndarray, "x//2 y//2 z//2"]:
    """Halve a volume: means of 2 x 2 x 2 voxels.

    Args:
        image: A volume.

    Returns:
        The smaller volume; an odd last plane is dropped.
    """
    for axis in range(3):
        lines = np.moveaxis(image, axis, 0)
        even = len(lines) // 2 * 2
        image = np.moveaxis((lines[0:even:2] + lines[1:even:2]) / 2, 0, axis)
    return image


def combine_scales(levels: list[np.ndarray], region: Mask3D | None) -> float:
    """Combine the maps of all scales into MS-SSIM.

    Args:
        levels: The maps of `ms_ssim_maps`.
        region: The voxels to average. At a coarser scale, voxels count that lie at least half in the region. None
            averages the `interior_mask` of every scale, as MONAI does.

    Returns:
        0 to 1; NaN if a scale has no voxel of the region.

    Source: Wang, Simoncelli and Bovik 2003 (doi:10.1109/ACSSC.2003.1292216), eq. 7; negative means count as 0.
    """
    product = 1.0
    fraction = None if region is None else region.astype(np.float32)
    for level, exponent in zip(levels, EXPONENTS, strict=True):
        mask = interior_mask(level.shape) if fraction is None else fraction >= 0.5
        product *= np.maximum(mean_over(level, mask), 0) ** exponent
        fraction = None if fraction is None else halve(fraction)
    return float(product)


def ms_ssim(image: Volume3D, truth: Volume3D, region: Mask3D | None, peak: float) -> float:
    """Compute multi-scale SSIM over a region, at four scales.

    Args:
        image: The synthetic volume.
        truth: The acquired volume, on the same intensity scale.
        region: The voxels to average; see `combine_scales`.
        peak: The data range.

    Returns:
        0 to 1; NaN if a scale has no voxel of the region.
    """
    return combine_scales(ms_ssim_maps(image, truth, peak), region)
