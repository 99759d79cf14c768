"""What the scores are called, what their units are, and which way is better: one place for CSV, JSON and report."""

from dataclasses import dataclass

REGIONS = {
    "brain": "brain",
    "volume": "whole volume",
    "enhancing": "enhancing tumour",
    "tumour": "whole tumour",
    "rest": "rest",
}
LIKENESS = {
    "psnr": ("PSNR", "dB", "more"),
    "nrmse": ("NRMSE", "of the peak", "less"),
    "mae": ("MAE", "of the peak", "less"),
    "ssim": ("SSIM", "", "more"),
    "ms_ssim": ("MS-SSIM", "", "more"),
}
ENHANCEMENT = {
    "auc_brain": ("AUC in the brain", "", "more"),
    "auc_tumour": ("AUC in the tumour", "", "more"),
    "gain": ("recovered gain", "", "near 1"),
    "detection": ("lesions found, share", "", "more"),
    "lesions_found": ("lesions found", "per patient", "more"),
    "lesions": ("true lesions", "per patient", ""),
    "false_lesions": ("false lesions", "per patient", "less"),
    "false_ml": ("false enhancement", "ml", "less"),
    "enhancing_ml": ("enhancing, synthetic", "ml", ""),
    "enhancing_ml_truth": ("enhancing, acquired", "ml", ""),
    "enhancing_ml_label": ("enhancing, segmented", "ml", ""),
}
TEXTURE = {
    "slice_jumps": ("jumps between slices", "of the truth's", "near 1"),
    "sharpness": ("sharpness", "of the truth's", "near 1"),
}
CALIBRATION = {
    "coverage_50": ("truth in the 50 % interval", "share", "near 0.50"),
    "coverage_80": ("truth in the 80 % interval", "share", "near 0.80"),
    "coverage_95": ("truth in the 95 % interval", "share", "near 0.95"),
    "calibration_error": ("calibration error", "", "less"),
    "error_correlation": ("error and uncertainty, rank correlation", "", "more"),
}
PLAIN = ENHANCEMENT | TEXTURE | CALIBRATION


@dataclass(frozen=True)
class Measure:
    """One score. better: more, less, near a value, or nothing where it only describes."""

    title: str
    unit: str
    better: str


def describe(name: str) -> Measure:
    """The measure by the name of a score, as `psnr_brain` or `gain`. Raises `KeyError` for a name that is none."""
    if name in PLAIN:
        return Measure(*PLAIN[name])
    if name.startswith("coverage_"):
        level = int(name.removeprefix("coverage_"))
        return Measure(f"truth in the {level} % interval", "share", f"near 0.{level:02d}")
    metric, region = name.rsplit("_", 1)
    title, unit, better = LIKENESS[metric]
    return Measure(f"{title}, {REGIONS[region]}", unit, better)
