"""Whether a synthetic volume hangs together from slice to slice, and is sharp, each as much as the truth."""

import numpy as np
from scipy import ndimage

from dsdiff.evaluation.voxelwise import Image, Mask


def slice_jumps(image: Image, truth: Image, brain: Mask) -> float:
    """How much neighbouring axial slices differ for how much neighbouring voxels within a slice do, against the truth.

    r(v) = mean |v[z+1] - v[z]| / (mean |v[x+1] - v[x]| + mean |v[y+1] - v[y]|), over pairs of brain voxels; the result
    is r(image) / r(truth). 1: as the truth; above 1: steps between slices, as slice-by-slice synthesis leaves them. A
    linear intensity map does not move it. NaN where the truth has no such pairs or is constant.
    """
    expected = _jumps(truth, brain)
    return _jumps(image, brain) / expected if expected > 0 else float("nan")


def _jumps(image: Image, brain: Mask) -> float:
    x, y, z = (_mean_step(image, brain, axis) for axis in range(3))
    return z / (x + y) if x + y > 0 else float("nan")


def _mean_step(image: Image, brain: Mask, axis: int) -> float:
    first, second = np.moveaxis(brain, axis, 0)[:-1], np.moveaxis(brain, axis, 0)[1:]
    pairs, moved = first & second, np.moveaxis(image, axis, 0)
    return float(np.abs(moved[1:][pairs] - moved[:-1][pairs]).mean()) if pairs.any() else float("nan")


def sharpness(image: Image, truth: Image, brain: Mask) -> float:
    """Standard deviation of the Laplacian in the brain against the truth's, both images on one scale.

    1: as sharp; below 1: smoother; noise raises it as detail does. Voxels whose six
    neighbours are not all brain are left out. NaN where none is left or the truth is constant.
    Source: the variance of the Laplacian, Pech-Pacheco et al. 2000 (doi:10.1109/ICPR.2000.903548), eq. 6.
    """
    inner = ndimage.binary_erosion(brain)
    expected = float(_laplacian(truth)[inner].std()) if inner.any() else 0.0
    return float(_laplacian(image)[inner].std()) / expected if expected > 0 else float("nan")


def _laplacian(image: Image) -> Image:
    return ndimage.laplace(np.asarray(image, np.float64))
