"""Titles, units and directions of all scores, for tables, reports and the terminal."""

from dataclasses import dataclass

import numpy as np

REGION_TITLES = {
    "brain": "brain",
    "volume": "whole volume",
    "enhancing": "enhancing tumour",
    "tumour": "whole tumour",
    "rest": "outside the tumour",
}
# score -> title, unit, which value is better
SIMILARITY = {
    "psnr": ("PSNR", "dB", "higher"),
    "nrmse": ("NRMSE", "of the peak", "lower"),
    "mae": ("MAE", "of the peak", "lower"),
    "ssim": ("SSIM", "", "higher"),
    "ms_ssim": ("MS-SSIM", "", "higher"),
}
ENHANCEMENT = {
    "auc_brain": ("AUC in the brain", "", "higher"),
    "auc_tumour": ("AUC in the tumour", "", "higher"),
    "enhancement_recovery": ("recovery", "of the true enhancement", "near 1"),
    "detection": ("lesions detected, fraction", "", "higher"),
    "lesions_found": ("lesions detected", "per patient", "higher"),
    "lesions": ("true lesions", "per patient", ""),
    "false_lesions": ("false lesions", "per patient", "lower"),
    "false_ml": ("false enhancement", "ml", "lower"),
    "enhancing_ml": ("enhancing volume, synthetic", "ml", ""),
    "enhancing_ml_truth": ("enhancing volume, acquired", "ml", ""),
    "enhancing_ml_label": ("enhancing volume, segmented", "ml", ""),
}
TEXTURE = {
    "slice_jumps": ("steps between slices", "relative to acquired", "near 1"),
    "sharpness": ("sharpness", "relative to acquired", "near 1"),
}
CALIBRATION = {
    "coverage_50": ("coverage of the 50 % interval", "fraction", "near 0.50"),
    "coverage_80": ("coverage of the 80 % interval", "fraction", "near 0.80"),
    "coverage_95": ("coverage of the 95 % interval", "fraction", "near 0.95"),
    "calibration_error": ("calibration error", "", "lower"),
    "error_correlation": ("rank correlation of error and uncertainty", "", "higher"),
}
REGION_FREE = ENHANCEMENT | TEXTURE | CALIBRATION  # scores without a region in their name


@dataclass(frozen=True)
class ScoreInfo:
    """Title and unit of one score; `better` is higher, lower, near a value, or empty if the score only describes."""

    title: str
    unit: str
    better: str


def describe_score(name: str) -> ScoreInfo:
    """Look a score up.

    Args:
        name: Its name, such as `psnr_brain` or `enhancement_recovery`.

    Returns:
        Title, unit and direction.

    Raises:
        KeyError: There is no such score.
    """
    if name in REGION_FREE:
        return ScoreInfo(*REGION_FREE[name])
    if name.startswith("coverage_"):
        level = int(name.removeprefix("coverage_"))
        return ScoreInfo(f"coverage of the {level} % interval", "fraction", f"near 0.{level:02d}")
    metric, region = name.rsplit("_", 1)
    title, unit, better = SIMILARITY[metric]
    return ScoreInfo(f"{title}, {REGION_TITLES[region]}", unit, better)


def format_score(value: float, name: str) -> str:
    """Format a value with as many digits as are meaningful.

    Args:
        value: The value.
        name: The score.

    Returns:
        The number as text; ∞ for infinity, - for NaN.
    """
    if not np.isfinite(value):
        return "∞" if value > 0 else "-"
    if name.startswith(("nrmse", "mae", "ssim", "ms_ssim")):
        digits = 3
    elif name.endswith("_ml") or "_ml_" in name or "lesions" in name or name.startswith("psnr"):
        digits = 1
    else:
        digits = 2
    return f"{value:.{digits}f}"
