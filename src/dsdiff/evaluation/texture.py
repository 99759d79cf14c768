"""Steps between slices, and sharpness, of a synthetic volume relative to the acquired one."""

import numpy as np
from scipy import ndimage

from dsdiff.volume import Mask3D, Volume3D


def slice_jumps(image: Volume3D, truth: Volume3D, brain: Mask3D) -> float:
    """Compare the steps between axial slices with the steps within a slice, relative to the truth.

    r(v) = mean |v[z+1] - v[z]| / (mean |v[x+1] - v[x]| + mean |v[y+1] - v[y]|), over pairs of brain voxels. A linear
    intensity map does not change it.

    Args:
        image: The synthetic volume.
        truth: The acquired volume.
        brain: The brain mask.

    Returns:
        r(image) / r(truth). 1: as the truth; above 1: steps between slices, as slice-by-slice synthesis leaves them.
        NaN if the truth has no such pairs or is constant.
    """
    truth_ratio = _step_ratio(truth, brain)
    return _step_ratio(image, brain) / truth_ratio if truth_ratio > 0 else float("nan")


def _step_ratio(image: Volume3D, brain: Mask3D) -> float:
    x, y, z = (_mean_step(image, brain, axis) for axis in range(3))
    return z / (x + y) if x + y > 0 else float("nan")


def _mean_step(image: Volume3D, brain: Mask3D, axis: int) -> float:
    """Return the mean absolute difference of neighboring brain voxels along an axis; NaN if there are none."""
    inside = np.moveaxis(brain, axis, 0)
    values = np.moveaxis(image, axis, 0)
    pairs = inside[:-1] & inside[1:]
    return float(np.abs(values[1:][pairs] - values[:-1][pairs]).mean()) if pairs.any() else float("nan")


def sharpness(image: Volume3D, truth: Volume3D, brain: Mask3D) -> float:
    """Compute the standard deviation of the Laplacian in the brain, relative to the truth.

    Only voxels whose six neighbors are brain count. Noise raises sharpness as detail does.

    Args:
        image: The synthetic volume.
        truth: The acquired volume, on the same intensity scale.
        brain: The brain mask.

    Returns:
        1: as sharp as the truth; below 1: smoother. NaN if no voxel counts or the truth is constant.

    Source: the variance of the Laplacian, Pech-Pacheco et al. 2000 (doi:10.1109/ICPR.2000.903548), eq. 6.
    """
    inner = ndimage.binary_erosion(brain)
    truth_std = float(_laplacian(truth)[inner].std()) if inner.any() else 0.0
    return float(_laplacian(image)[inner].std()) / truth_std if truth_std > 0 else float("nan")


def _laplacian(image: Volume3D) -> Volume3D:
    return ndimage.laplace(np.asarray(image, np.float64))
