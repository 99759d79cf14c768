"""Voxel-wise scores of a synthetic T1ce against the acquired one (`ssim` has the windowed scores).

Images are compared on a scale that enhancement hardly moves: `robust_zscore` centers an image on the brain's median
and divides it by the brain's median absolute deviation. Every function takes full volumes and a mask.
"""

import numpy as np
from jaxtyping import Float
from scipy import ndimage, stats

from dsdiff.volume import Mask3D, Volume3D

MAD_TO_STD = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
MIN_TRUE_ENHANCEMENT = 1.0  # robust standard deviations: recovery of less is a ratio of noises


def robust_scale(image: Volume3D, brain: Mask3D) -> tuple[float, float]:
    """Measure center and width of the brain's intensities.

    Args:
        image: A volume in any intensity unit.
        brain: The brain mask.

    Returns:
        The median, and 1.4826 times the median absolute deviation.

    Raises:
        ValueError: The image is constant over most of the brain.
    """
    inside = image[brain].astype(np.float64)
    center = float(np.median(inside))
    width = MAD_TO_STD * float(np.median(np.abs(inside - center)))
    if width == 0:
        raise ValueError("the image is constant over most of the brain")
    return center, width


def robust_zscore(image: Volume3D, brain: Mask3D) -> Volume3D:
    """Bring an image to the robust scale of the brain.

    Args:
        image: A volume in any intensity unit.
        brain: The brain mask.

    Returns:
        (image - center) / width of `robust_scale`.

    Raises:
        ValueError: The image is constant over most of the brain.
    """
    center, width = robust_scale(image, brain)
    return (image - center) / width


def stretch_percentiles(image: Volume3D, brain: Mask3D) -> Volume3D:
    """Stretch an image to 0 and 1 at its own 0.5 and 99.5 percentiles in the brain, and clip it there.

    Args:
        image: A volume in any intensity unit.
        brain: The brain mask.

    Returns:
        Values 0 to 1; 0 outside the brain, so that the background does not count in windows at the brain's edge.
    """
    low, high = np.percentile(image[brain], (0.5, 99.5))
    return np.clip((image - low) / max(high - low, 1e-12), 0, 1) * brain


def fit_linear_map(image: Volume3D, truth: Volume3D, region: Mask3D) -> Volume3D:
    """Map an image linearly to the truth, by least squares over a region.

    Args:
        image: The synthetic volume.
        truth: The acquired volume.
        region: The voxels that the fit uses.

    Returns:
        a * image + b, with the a and b of the smallest squared error.
    """
    x = image[region].astype(np.float64)
    y = truth[region].astype(np.float64)
    variance = x.var()
    slope = ((x - x.mean()) * (y - y.mean())).mean() / variance if variance > 0 else 0.0
    return slope * (image - x.mean()) + y.mean()


def blur_truth(truth: Volume3D, brain: Mask3D) -> Volume3D:
    """Blur the acquired volume: an upper baseline that needs no network.

    Args:
        truth: The acquired volume.
        brain: The brain mask.

    Returns:
        The volume after a Gaussian of one voxel (1 mm in BraTS); 0 outside the brain.
    """
    return ndimage.gaussian_filter(truth.astype(np.float64), 1.0) * brain


def data_range(truth: Volume3D, brain: Mask3D) -> float:
    """Return the distance between the truth's 0.5 and 99.5 percentiles in the brain.

    Args:
        truth: The acquired volume.
        brain: The brain mask.

    Returns:
        The range, in the unit of the image: the peak of PSNR, NRMSE and MAE.
    """
    low, high = np.percentile(truth[brain], (0.5, 99.5))
    return float(high - low)


def nrmse(image: Volume3D, truth: Volume3D, region: Mask3D, peak: float) -> float:
    """Compute the root mean squared error over a region as a fraction of the peak.

    Args:
        image: The synthetic volume.
        truth: The acquired volume, on the same intensity scale.
        region: The voxels to score.
        peak: The data range.

    Returns:
        0 or more; NaN for an empty region.
    """
    if not region.any():
        return float("nan")
    return float(np.sqrt(np.mean(_error(image, truth, region) ** 2)) / peak)


def psnr(image: Volume3D, truth: Volume3D, region: Mask3D, peak: float) -> float:
    """Compute the peak signal-to-noise ratio over a region.

    Args:
        image: The synthetic volume.
        truth: The acquired volume, on the same intensity scale.
        region: The voxels to score.
        peak: The data range.

    Returns:
        Decibels; infinity for identical images, NaN for an empty region.
    """
    fraction = nrmse(image, truth, region, peak)
    return float("inf") if fraction == 0 else float(-20 * np.log10(fraction))


def mae(image: Volume3D, truth: Volume3D, region: Mask3D, peak: float) -> float:
    """Compute the mean absolute error over a region as a fraction of the peak.

    Args:
        image: The synthetic volume.
        truth: The acquired volume, on the same intensity scale.
        region: The voxels to score.
        peak: The data range.

    Returns:
        0 or more; NaN for an empty region.
    """
    if not region.any():
        return float("nan")
    return float(np.abs(_error(image, truth, region)).mean() / peak)


def _error(image: Volume3D, truth: Volume3D, region: Mask3D) -> Float[np.ndarray, " n"]:
    return image[region].astype(np.float64) - truth[region]


def auc(values: Volume3D, positive: Mask3D, negative: Mask3D) -> float:
    """Compute the area under the ROC curve: how well a map separates two groups of voxels.

    Args:
        values: The map, such as enhancement.
        positive: Voxels that should have high values.
        negative: Voxels that should have low values.

    Returns:
        Probability that a positive voxel is above a negative one (ties count half); NaN if a group is empty.
    """
    n, m = int(positive.sum()), int(negative.sum())
    if n == 0 or m == 0:
        return float("nan")
    ranks = stats.rankdata(np.concatenate([values[positive], values[negative]]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def enhancement_recovery(synthetic: Volume3D, acquired: Volume3D, enhancing: Mask3D) -> float:
    """Compute the fraction of the true enhancement that a synthetic volume shows.

    Args:
        synthetic: Synthetic T1ce minus T1, on the robust scale.
        acquired: Acquired T1ce minus T1, on the robust scale.
        enhancing: The enhancing tumour.

    Returns:
        Mean synthetic over mean true enhancement, 1 is best. NaN without enhancing tumour, or if the mean true
        enhancement is below MIN_TRUE_ENHANCEMENT.
    """
    if not enhancing.any():
        return float("nan")
    mean_acquired = float(acquired[enhancing].mean())
    if mean_acquired < MIN_TRUE_ENHANCEMENT:
        return float("nan")
    return float(synthetic[enhancing].mean() / mean_acquired)
