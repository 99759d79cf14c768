"""Compare the tissues of phantoms with those of patients: python benchmarks/phantom_contrasts.py PHANTOMS REAL

Both folders hold cases with segmentations. Prints, on the robust scale of each brain (0: its median), the median of
every contrast in necrosis, oedema and enhancing tumour, by how much enhancing tumour differs from the rest of it, and
the share of the brain outside tumours that enhances. Mean and standard deviation over cases.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from dsdiff.evaluation import enhancement, voxelwise
from dsdiff.evaluation.regions import regions
from dsdiff.io import cases
from dsdiff.io.cases import Case
from dsdiff.system.console import bars
from dsdiff.volume import to_canonical

SOURCES = ("t1", "t2", "flair")
LEAST = 50  # voxels below which a median would be noise
LABELS = {1: "necrosis", 2: "oedema"}


def measure(case: Case) -> dict[str, float]:
    """What is printed of one case, by its name; NaN for a label that it lacks."""
    volumes = cases.load(case, (*SOURCES, "t1ce", "seg"))
    arrays = {name: to_canonical(volume).array for name, volume in volumes.items()}
    labels, brain = arrays.pop("seg"), arrays["t1"] > 0
    scaled = {name: voxelwise.robust(array, brain) for name, array in arrays.items()}
    where = regions(brain, labels)
    parts = {name: brain & (labels == label) for label, name in LABELS.items()} | {"enhancing": where.enhancing}
    found = {}
    for contrast in SOURCES:
        level = {name: median(scaled[contrast], part) for name, part in parts.items()}
        found |= {f"{contrast} {name}": value for name, value in level.items()}
        found |= {f"{contrast} enhancing - {name}": level["enhancing"] - level[name] for name in LABELS.values()}
    enhances = scaled["t1ce"] - scaled["t1"] > enhancement.THRESHOLD
    return found | {"% that enhances outside tumours": 100 * float(enhances[where.healthy].mean())}


def median(image: np.ndarray, part: np.ndarray) -> float:
    """The median within a part, NaN where it has too few voxels to say."""
    return float(np.median(image[part])) if part.sum() >= LEAST else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path)
    parser.add_argument("real", type=Path)
    args = parser.parse_args()
    columns = []
    with bars(Console(stderr=True), count=True) as progress:
        for folder in (args.phantoms, args.real):
            found = [case for case in cases.discover(folder) if "seg" in case.named]
            if not found:
                sys.exit(f"{folder} holds no case with a segmentation; both folders need some")
            columns.append([measure(case) for case in progress.track(found, description=folder.name)])
    print(f"{'':34} {'phantoms':>14} {'patients':>14}   ({len(columns[0])} and {len(columns[1])} cases)")
    for name in columns[0][0]:
        values = [np.array([row[name] for row in rows]) for rows in columns]
        print(f"{name:34} " + " ".join(f"{np.nanmean(v):7.2f} ({np.nanstd(v):4.2f})" for v in values))


if __name__ == "__main__":
    main()
