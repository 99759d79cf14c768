"""Calibration of the uncertainty: do intervals cover the truth as often as they claim?

Intervals are central: the q interval of samples lies between their (1 - q) / 2 and (1 + q) / 2 quantiles. That of mean
and standard deviation is the interval of a normal distribution. Few samples give narrow quantiles, so n perfect samples
still cover less than q.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from dsdiff.volume import Mask3D, Volume3D

NOMINAL_LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))  # 0.05 to 0.95


def coverage_name(level: float) -> str:
    """Return the name of the score for the coverage of an interval.

    Args:
        level: Nominal level of the interval, 0 to 1.

    Returns:
        A name such as `coverage_95`.
    """
    return f"coverage_{round(100 * level):02d}"


def coverage(
    truth: Volume3D, mean: Volume3D, std: Volume3D, region: Mask3D, levels: Sequence[float] = NOMINAL_LEVELS
) -> dict[float, float]:
    """Compute how often the intervals of a normal distribution cover the truth.

    Args:
        truth: The acquired volume.
        mean: The synthetic volume, on the same intensity scale.
        std: Its standard deviation, on the same scale.
        region: The voxels to score.
        levels: Nominal levels, 0 to 1.

    Returns:
        Level -> fraction of voxels covered; NaN for an empty region.
    """
    error = np.abs(truth[region].astype(np.float64) - mean[region])
    width = std[region].astype(np.float64)
    return {level: _fraction(error <= stats.norm.ppf((1 + level) / 2) * width) for level in levels}


def sample_coverage(
    truth: Volume3D,
    samples: Float[np.ndarray, "n x y z"],
    region: Mask3D,
    levels: Sequence[float] = NOMINAL_LEVELS,
) -> dict[float, float]:
    """Compute how often the intervals between quantiles of samples cover the truth.

    Args:
        truth: The acquired volume.
        samples: Synthetic volumes, on the same intensity scale.
        region: The voxels to score.
        levels: Nominal levels, 0 to 1.

    Returns:
        Level -> fraction of voxels covered; NaN for an empty region. Quantiles are interpolated linearly.
    """
    inside = samples[:, region].astype(np.float64)  # n v
    probabilities = [(1 - level) / 2 for level in levels] + [(1 + level) / 2 for level in levels]
    quantiles = np.quantile(inside, probabilities, axis=0)
    low, high = quantiles[: len(levels)], quantiles[len(levels) :]

    target = truth[region]
    return {level: _fraction((low[k] <= target) & (target <= high[k])) for k, level in enumerate(levels)}


def _fraction(is_covered: np.ndarray) -> float:
    return float(is_covered.mean()) if is_covered.size else float("nan")


def calibration_error(curve: Mapping[float, float]) -> float:
    """Compute the mean distance of the calibration curve from the diagonal.

    Args:
        curve: Nominal level -> coverage.

    Returns:
        0 (perfect) to about 0.5.
    """
    return float(np.mean([abs(covered - level) for level, covered in curve.items()]))


def error_correlation(truth: Volume3D, mean: Volume3D, std: Volume3D, region: Mask3D) -> float:
    """Compute Spearman's rank correlation of absolute error and standard deviation.

    Args:
        truth: The acquired volume.
        mean: The synthetic volume, on the same intensity scale.
        std: Its standard deviation.
        region: The voxels to score.

    Returns:
        -1 to 1; NaN if either is constant or the region has fewer than two voxels.
    """
    error = np.abs(truth[region].astype(np.float64) - mean[region])
    width = std[region]
    if error.size < 2 or np.ptp(error) == 0 or np.ptp(width) == 0:
        return float("nan")
    return float(stats.spearmanr(error, width).statistic)
