"""Structural similarity in 3-D, at one scale and at several, window by separable window.

Where both images are zero over a whole window the similarity is 1, so only the box that holds something is computed.
"""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from dsdiff.evaluation.regions import bounding_box
from dsdiff.evaluation.voxelwise import Image, Mask

SIGMA, RADIUS = 1.5, 5  # voxels: 11 taps
K1, K2 = 0.01, 0.03
# The first four of Wang's five exponents, made to sum to one: at the fifth scale 155 slices are 9, less than a window.
EXPONENTS = tuple(np.array([0.0448, 0.2856, 0.3001, 0.2363]) / 0.8668)


def maps(image: Image, truth: Image, peak: float) -> tuple[Image, Image]:
    """SSIM and its contrast-and-structure part, for a window about every voxel (mirrored at the volume's border).

    Source: Wang et al. 2004 (doi:10.1109/TIP.2003.819861), eq. 6, 9 and 13: 3-D Gaussian windows of 1.5 voxels,
    population covariance.
    """
    similarity, structure = np.ones(image.shape), np.ones(image.shape)
    some = (image != 0) | (truth != 0)
    if not some.any():
        return similarity, structure
    box = bounding_box(some, RADIUS + 1)  # outside every window sees zeros only
    x, y = image[box].astype(np.float64), truth[box].astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance = _blur(x * y) - product
    variances = _blur(x * x + y * y) - squares  # of x and of y, summed: a window is linear
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    structure[box] = (2 * covariance + c2) / (variances + c2)
    similarity[box] = structure[box] * (2 * product + c1) / (squares + c1)
    return similarity, structure


def _blur(array: Image) -> Image:
    return ndimage.gaussian_filter(array, SIGMA, radius=RADIUS)


def interior(shape: tuple[int, ...]) -> Mask:
    """The voxels whose window lies wholly within a volume."""
    inside = np.zeros(shape, bool)
    inside[tuple(slice(RADIUS, max(n - RADIUS, RADIUS)) for n in shape)] = True
    return inside


def mean_over(values: Image, region: Mask) -> float:
    """Mean of a map over a region; NaN for an empty one."""
    return float(values[region].mean()) if region.any() else float("nan")


def ssim(image: Image, truth: Image, region: Mask, peak: float) -> float:
    """Mean SSIM over a region, -1 to 1; NaN for an empty region. Equals scikit-image's with
    `gaussian_weights=True, use_sample_covariance=False`."""
    return mean_over(maps(image, truth, peak)[0], region)


def pyramid(image: Image, truth: Image, peak: float, first: tuple[Image, Image] | None = None) -> list[np.ndarray]:
    """The maps that MS-SSIM averages: contrast and structure at every scale, SSIM at the last and coarsest.

    Each scale halves the one before (means of 2 x 2 x 2 voxels, odd ends dropped). `first` are the `maps` of these
    images where they are known already.
    """
    similarity, structure = first if first is not None else maps(image, truth, peak)
    levels = [structure]
    for _ in EXPONENTS[1:]:
        image, truth = halved(image), halved(truth)
        similarity, structure = maps(image, truth, peak)
        levels.append(structure)
    return [*levels[:-1], similarity]


def halved(image: Image) -> Float[np.ndarray, "x//2 y//2 z//2"]:
    """Means of 2 x 2 x 2 voxels; an odd last plane is dropped."""
    for axis in range(3):
        lines = np.moveaxis(image, axis, 0)
        even = len(lines) // 2 * 2
        image = np.moveaxis((lines[0:even:2] + lines[1:even:2]) / 2, 0, axis)
    return image


def combine(levels: list[np.ndarray], region: Mask | None) -> float:
    """MS-SSIM of a `pyramid` over a region, 0 to 1.

    The region at a scale is where at least half of it is left; without a region it is the `interior` of every scale,
    as MONAI has it. NaN where a scale has nothing left of the region.

    Source: Wang, Simoncelli and Bovik 2003 (doi:10.1109/ACSSC.2003.1292216), eq. 7; negative means count as 0.
    """
    result = 1.0
    share = None if region is None else region.astype(np.float32)
    for level, exponent in zip(levels, EXPONENTS, strict=True):
        found = mean_over(level, interior(level.shape) if share is None else share >= 0.5)
        result *= np.maximum(found, 0) ** exponent
        share = None if share is None else halved(share)
    return float(result)


def ms_ssim(image: Image, truth: Image, region: Mask | None, peak: float) -> float:
    """Multi-scale SSIM over a region (see `combine`) at four scales."""
    return combine(pyramid(image, truth, peak), region)
