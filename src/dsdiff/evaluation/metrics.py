"""Scores of one synthetic T1ce against the acquired one. NumPy only.

Images are compared on a scale that enhancement hardly moves: centred on the brain's median and divided by its median
absolute deviation (`robust`). Every function takes whole volumes and a mask.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage, stats

Image = Float[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]
LEAST_GAIN = 1.0  # robust standard deviations of true enhancement


def robust(image: Image, brain: Mask) -> Image:
    """(image - median) / (1.4826 median absolute deviation), both of the brain; raises `ValueError` for a constant."""
    inside = image[brain].astype(np.float64)
    centre = np.median(inside)
    width = 1.4826 * np.median(np.abs(inside - centre))
    if width == 0:
        raise ValueError("the image is constant over most of the brain")
    return (image - centre) / width


def linear_fit(image: Image, truth: Image, region: Mask) -> Image:
    """a image + b with the a and b that come closest to the truth in a region (least squares)."""
    x, y = image[region].astype(np.float64), truth[region].astype(np.float64)
    variance = x.var()
    slope = ((x - x.mean()) * (y - y.mean())).mean() / variance if variance > 0 else 0.0
    return slope * (image - x.mean()) + y.mean()


def data_range(truth: Image, brain: Mask) -> float:
    """The truth's 0.5 to 99.5 percentiles in the brain."""
    low, high = np.percentile(truth[brain], (0.5, 99.5))
    return float(high - low)


def psnr(image: Image, truth: Image, region: Mask, peak: float) -> float:
    """Peak signal-to-noise ratio over a region, in dB; infinite for identical images."""
    mse = float(np.mean((image[region].astype(np.float64) - truth[region]) ** 2))
    return float("inf") if mse == 0 else float(10 * np.log10(peak**2 / mse))


def ssim(image: Image, truth: Image, region: Mask, peak: float) -> float:
    """Mean structural similarity over a region, 3-D Gaussian windows of 1.5 voxels.

    Source: Wang et al. 2004 (doi:10.1109/TIP.2003.819861), eq. 13, K1 0.01, K2 0.03, population covariance. Equals
    scikit-image's with `gaussian_weights=True, use_sample_covariance=False`.
    """
    margin = 6
    box = tuple(slice(max(edge.min() - margin, 0), edge.max() + 1 + margin) for edge in np.nonzero(region))

    def blur(array: Image) -> Image:
        return ndimage.gaussian_filter(array, 1.5, truncate=3.5)

    x, y = image[box].astype(np.float64), truth[box].astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(similarity[region[box]].mean())


def stretched(image: Image, brain: Mask) -> Image:
    """0 and 1 at the image's own 0.5 and 99.5 percentiles in the brain, clipped there; 0 outside the brain, so that
    what a method leaves outside does not count in windows at the brain's edge."""
    low, high = np.percentile(image[brain], (0.5, 99.5))
    return np.clip((image - low) / max(high - low, 1e-12), 0, 1) * brain


def auc(score: Image, positive: Mask, negative: Mask) -> float:
    """Probability that a positive voxel scores above a negative one (ties count half); NaN where a side is empty."""
    n, m = int(positive.sum()), int(negative.sum())
    if n == 0 or m == 0:
        return float("nan")
    ranks = stats.rankdata(np.concatenate([score[positive], score[negative]]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def gain(score: Image, truth: Image, enhancing: Mask) -> float:
    """Share of the true enhancement recovered: the mean of `score` over the mean of `truth`, both in the enhancing
    tumour; NaN where it is empty or where the truth's mean is below LEAST_GAIN (a ratio of noises)."""
    if not enhancing.any():
        return float("nan")
    expected = float(truth[enhancing].mean())
    return float(score[enhancing].mean() / expected) if expected >= LEAST_GAIN else float("nan")
