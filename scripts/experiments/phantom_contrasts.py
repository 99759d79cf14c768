"""Compare tissue contrasts of phantoms and patients: python scripts/experiments/phantom_contrasts.py PHANTOMS REAL

Both folders hold cases with segmentations. Intensities are robust z-scores of each brain (0 is its median). The table
has mean and standard deviation over cases of:
- the median of each contrast in necrosis, edema and enhancing tumour;
- the difference between enhancing tumour and the rest of the tumour;
- the percentage of the brain outside tumours that enhances.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from dsdiff.evaluation import enhancement, voxelwise
from dsdiff.evaluation.regions import make_regions
from dsdiff.io.cases import Case, discover_cases, load_volumes
from dsdiff.orientation import to_canonical
from dsdiff.system.console import progress_bars

SOURCES = ("t1", "t2", "flair")
MIN_VOXELS = 50  # the median of fewer voxels is noise
LABELS = {1: "necrosis", 2: "edema"}


def measure_case(case: Case) -> dict[str, float]:
    """Measure one row of the table.

    Args:
        case: A case with source contrasts, T1ce and segmentation.

    Returns:
        Values by name; NaN for a label that the case lacks.
    """
    volumes = load_volumes(case, (*SOURCES, "t1ce", "seg"))
    arrays = {name: to_canonical(volume).array for name, volume in volumes.items()}
    labels, brain = arrays.pop("seg"), arrays["t1"] > 0
    z_scores = {name: voxelwise.robust_zscore(array, brain) for name, array in arrays.items()}

    regions = make_regions(brain, labels)
    masks = {name: brain & (labels == label) for label, name in LABELS.items()}
    masks["enhancing"] = regions.enhancing

    values = {}
    for contrast in SOURCES:
        medians = {name: masked_median(z_scores[contrast], mask) for name, mask in masks.items()}
        for name, median in medians.items():
            values[f"{contrast} {name}"] = median
        for name in LABELS.values():
            values[f"{contrast} enhancing - {name}"] = medians["enhancing"] - medians[name]

    enhances = z_scores["t1ce"] - z_scores["t1"] > enhancement.ENHANCEMENT_THRESHOLD
    values["% of healthy brain that enhances"] = 100 * float(enhances[regions.healthy].mean())

    return values


def masked_median(image: np.ndarray, mask: np.ndarray) -> float:
    """Compute the median in a mask.

    Args:
        image: (x, y, z).
        mask: On the same grid.

    Returns:
        The median; NaN for fewer than `MIN_VOXELS` voxels.
    """
    return float(np.median(image[mask])) if mask.sum() >= MIN_VOXELS else float("nan")


def measure_folder(folder: Path) -> list[dict[str, float]]:
    """Measure the cases of a folder.

    Args:
        folder: A folder of cases; those without segmentation are skipped.

    Returns:
        One row per case.
    """
    cases = [case for case in discover_cases(folder) if "seg" in case.contrasts]
    if not cases:
        sys.exit(f"no case in {folder} has a segmentation; both folders need some")

    rows = []
    with progress_bars(count=True) as report_progress:
        for index, case in enumerate(cases):
            report_progress(folder.name, index, len(cases))
            rows.append(measure_case(case))

    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path)
    parser.add_argument("real", type=Path)
    args = parser.parse_args()

    phantoms, patients = measure_folder(args.phantoms), measure_folder(args.real)

    print(f"{'':34} {'phantoms':>14} {'patients':>14}   ({len(phantoms)} and {len(patients)} cases)")
    for name in phantoms[0]:
        columns = [np.array([row[name] for row in rows]) for rows in (phantoms, patients)]
        print(f"{name:34} " + " ".join(f"{np.nanmean(v):7.2f} ({np.nanstd(v):4.2f})" for v in columns))


if __name__ == "__main__":
    main()
