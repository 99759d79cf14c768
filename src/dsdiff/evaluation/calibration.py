"""Whether samples tell what they do not know: intervals that hold the truth as often as they say.

Intervals are central: the q interval of samples lies between their (1 - q) / 2 and (1 + q) / 2 quantiles; of mean and
standard deviation it is that of a normal distribution. Few samples give narrow quantiles: n samples that are perfect
still cover less than q.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from dsdiff.evaluation.voxelwise import Image, Mask

LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))  # 0.05 to 0.95


def name_of(level: float) -> str:
    """The score that says how often the interval of a level holds the truth."""
    return f"coverage_{round(100 * level):02d}"


def coverage(
    truth: Image, mean: Image, std: Image, region: Mask, levels: Sequence[float] = LEVELS
) -> dict[float, float]:
    """Share of a region's voxels whose truth lies in the normal interval of each level; NaN for an empty region."""
    error = np.abs(truth[region].astype(np.float64) - mean[region])
    width = std[region].astype(np.float64)
    return {q: _share(error <= stats.norm.ppf((1 + q) / 2) * width) for q in levels}


def sample_coverage(
    truth: Image, samples: Float[np.ndarray, "n x y z"], region: Mask, levels: Sequence[float] = LEVELS
) -> dict[float, float]:
    """The same for the quantiles of samples (linear interpolation between them)."""
    inside = samples[:, region].astype(np.float64)  # n v
    quantiles = np.quantile(inside, [(1 + side * q) / 2 for side in (-1, 1) for q in levels], axis=0)
    low, high = quantiles[: len(levels)], quantiles[len(levels) :]
    target = truth[region]
    return {q: _share((low[k] <= target) & (target <= high[k])) for k, q in enumerate(levels)}


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if hits.size else float("nan")


def calibration_error(curve: Mapping[float, float]) -> float:
    """Mean distance of the calibration curve from the diagonal, 0 (perfect) to about 0.5."""
    return float(np.mean([abs(found - level) for level, found in curve.items()]))


def error_correlation(truth: Image, mean: Image, std: Image, region: Mask) -> float:
    """Spearman's rank correlation of absolute error and standard deviation over a region, -1 to 1.

    NaN where either is constant or the region has fewer than two voxels.
    """
    error, width = np.abs(truth[region].astype(np.float64) - mean[region]), std[region]
    if error.size < 2 or np.ptp(error) == 0 or np.ptp(width) == 0:
        return float("nan")
    return float(stats.spearmanr(error, width).statistic)
