"""Plot the best, median and worst patients: python scripts/figures/evaluated_patients.py DATA EVAL.json OUT.png

EVAL.json is the output of eval_real.py. Patients are ranked by their AUC of enhancement in the tumour, and each is
synthesized by the model of the fold that never saw it. The figure shows one axial slice of each patient, the one with
the largest enhancing area.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from dsdiff.inference.model import load_model
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io import splits
from dsdiff.io.cases import Case, discover_cases, load_volumes
from dsdiff.io.segmentation import enhancing_label
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import normalize
from dsdiff.reporting import figures, slice_views

COLUMNS = ("T1", "T2", "FLAIR", "synthetic T1ce", "acquired T1ce", "synthetic enhancement", "true enhancement")
CROP = (slice(20, 220), slice(30, 210))  # of a BraTS slice


def render_patient(case: Case, model_folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the gray images of all columns (0 to 1), and the enhancement maps of the last two."""
    model = load_model(model_folder, torch.device("cpu"))
    volumes = load_volumes(case, (*model.contrasts, "t1ce", "seg"))
    labels = to_canonical(volumes.pop("seg")).array
    loaded = normalize.preprocess(volumes)
    synthetic = Pipeline(model).synthesize_volumes({name: volumes[name] for name in model.contrasts}).z

    acquired, uncrop = loaded.case.images, loaded.geometry.uncrop
    t1, t2, flair, t1ce = (uncrop(acquired[name]) for name in ("t1", "t2", "flair", "t1ce"))
    synthetic_t1ce, brain = uncrop(synthetic), uncrop(loaded.case.brain)
    point = (0, 0, int((labels == enhancing_label(labels)).sum((0, 1)).argmax()))

    gray_slices = []
    for volume in (t1, t2, flair, synthetic_t1ce, t1ce, synthetic_t1ce, t1ce):
        low, high = slice_views.gray_window(volume, brain)
        level = np.where(brain, (volume - low) / (high - low), 0)
        gray_slices.append(slice_views.slice_view(np.clip(level, 0, 1), point, "axial")[CROP])
    enhancement_slices = []
    for volume in (synthetic_t1ce, t1ce):
        enhancement = np.where(brain, volume - t1, 0)
        enhancement_slices.append(slice_views.slice_view(enhancement, point, "axial")[CROP])
    return gray_slices, enhancement_slices


def select_patients(auc: dict[str, float | None]) -> list[str]:
    """Return the two best, two median and two worst patients."""
    finite = {name: value for name, value in auc.items() if value is not None}
    ranking = sorted(finite, key=lambda name: -finite[name])
    middle = len(ranking) // 2
    return [*ranking[:2], *ranking[middle - 1 : middle + 1], *ranking[-2:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models/folds"))
    parser.add_argument("--split", type=Path, default=Path("models/split.json"))
    args = parser.parse_args()

    scores = json.loads(args.scores.read_text(encoding="utf-8"))["patients"]
    auc = {name: methods["model"]["auc_tumour"] for name, methods in scores.items()}
    names = select_patients(auc)
    split = splits.read(args.split)
    cases = {case.name: case for case in discover_cases(args.data)}

    figure = figures.new_figure(11.4, 1.75 * len(names) + 0.4, dpi=90)
    axes = figure.subplots(len(names), len(COLUMNS), squeeze=False)
    figure.subplots_adjust(0.02, 0.005, 0.995, 0.955, 0.02, 0.09)
    low, high = slice_views.ENHANCEMENT_RANGE
    for row, name in zip(axes, names, strict=True):
        fold = next(k for k, members in enumerate(split.folds) if name in members)
        gray_slices, enhancement_slices = render_patient(cases[name], args.models / f"fold{fold}")
        for axis, image in zip(row, gray_slices, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        for axis, enhancement in zip(row[-2:], enhancement_slices, strict=True):
            masked = np.ma.masked_less(enhancement, low)
            axis.imshow(masked, cmap=slice_views.ENHANCEMENT_COLORMAP, vmin=low, vmax=high, alpha=0.85)
        title = f"{name}   AUC in tumour {auc[name]:.2f}"
        row[0].set_title(title, color=figures.MUTED, fontsize=7, loc="left", pad=2)
    for column, title in enumerate(COLUMNS):
        figure.text(0.02 + (column + 0.5) * 0.139, 0.978, title, color=figures.INK, fontsize=9, ha="center")
    figures.save_png(figure, args.out)


if __name__ == "__main__":
    main()
