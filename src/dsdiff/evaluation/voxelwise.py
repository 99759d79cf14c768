"""Scores of one synthetic T1ce against the acquired one, voxel by voxel (`similarity` has the windowed ones).

Images are compared on a scale that enhancement hardly moves: centred on the brain's median and divided by its median
absolute deviation (`robust`). Every function takes whole volumes and a mask.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

Image = Float[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]
GAUSSIAN = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
LEAST_GAIN = 1.0  # robust standard deviations of true enhancement


def robust_scale(image: Image, brain: Mask) -> tuple[float, float]:
    """The brain's median and 1.4826 times its median absolute deviation; raises `ValueError` for a constant."""
    inside = image[brain].astype(np.float64)
    centre = float(np.median(inside))
    width = GAUSSIAN * float(np.median(np.abs(inside - centre)))
    if width == 0:
        raise ValueError("the image is constant over most of the brain")
    return centre, width


def robust(image: Image, brain: Mask) -> Image:
    """(image - centre) / width of `robust_scale`; raises what it raises."""
    centre, width = robust_scale(image, brain)
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


def nrmse(image: Image, truth: Image, region: Mask, peak: float) -> float:
    """Root mean squared error over a region as a share of the peak, 0 or more; NaN for an empty region."""
    return float(np.sqrt(np.mean(_error(image, truth, region) ** 2)) / peak) if region.any() else float("nan")


def psnr(image: Image, truth: Image, region: Mask, peak: float) -> float:
    """Peak signal-to-noise ratio over a region, in dB; infinite for identical images, NaN for an empty region."""
    share = nrmse(image, truth, region, peak)
    return float("inf") if share == 0 else float(-20 * np.log10(share))


def mae(image: Image, truth: Image, region: Mask, peak: float) -> float:
    """Mean absolute error over a region as a share of the peak, 0 or more; NaN for an empty region."""
    return float(np.abs(_error(image, truth, region)).mean() / peak) if region.any() else float("nan")


def _error(image: Image, truth: Image, region: Mask) -> Float[np.ndarray, " n"]:
    return image[region].astype(np.float64) - truth[region]


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
