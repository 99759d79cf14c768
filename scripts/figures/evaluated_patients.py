"""Draw the best, the middle and the worst patients: python benchmarks/eval_picture.py DATA EVAL.json OUT.png

EVAL.json is what eval_real.py wrote; patients are ranked by their AUC of enhancement in the tumour, and each is
synthesised by the model of the fold that never saw it. One axial slice of each, through most of the enhancing tumour.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from dsdiff.data import splits
from dsdiff.inference import model as models
from dsdiff.inference.pipeline import run
from dsdiff.io import cases
from dsdiff.io.cases import Case
from dsdiff.io.segmentation import enhancing_label
from dsdiff.preprocessing import normalize
from dsdiff.reporting import preview, slice_views
from dsdiff.volume import to_canonical

COLUMNS = ("T1", "T2", "FLAIR", "synthetic T1ce", "acquired T1ce", "synthetic enhancement", "true enhancement")


def panels(case: Case, folder: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Grey slices (windowed to 0..1), and the two enhancement maps of the last two columns."""
    model = models.load(folder, torch.device("cpu"))
    volumes = cases.load(case, (*model.contrasts, "t1ce", "seg"))
    labels = to_canonical(volumes.pop("seg")).array
    truth = normalize.apply(volumes)
    made = run({name: volumes[name] for name in model.contrasts}, model).z
    point = (0, 0, int((labels == enhancing_label(labels)).sum((0, 1)).argmax()))
    images = [truth.images["t1"], truth.images["t2"], truth.images["flair"], made, truth.images["t1ce"]]
    brain, *grey = (truth.whole(image) for image in (truth.brain, *images))
    shown = []
    for image in [*grey, grey[3], grey[4]]:
        low, high = slice_views.window(image, brain)
        flat = np.where(brain, (image - low) / (high - low), 0)
        shown.append(slice_views.plane(np.clip(flat, 0, 1), point, "axial")[20:220, 30:210])
    maps = [
        slice_views.plane(np.where(brain, image - grey[0], 0), point, "axial")[20:220, 30:210]
        for image in (grey[3], grey[4])
    ]
    return shown, maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models/folds"))
    parser.add_argument("--split", type=Path, default=Path("models/split.json"))
    args = parser.parse_args()
    found = json.loads(args.scores.read_text(encoding="utf-8"))["patients"]
    auc = {name: methods["model"]["auc_tumour"] for name, methods in found.items()}
    ranked = sorted((name for name in auc if auc[name] is not None), key=lambda name: -auc[name])
    middle = len(ranked) // 2
    picks = [*ranked[:2], *ranked[middle - 1 : middle + 1], *ranked[-2:]]
    split, by_name = splits.read(args.split), {case.name: case for case in cases.discover(args.data)}
    figure = Figure(figsize=(11.4, 1.75 * len(picks) + 0.4), facecolor=preview.BACKGROUND, dpi=90)
    axes = figure.subplots(len(picks), len(COLUMNS), squeeze=False)
    figure.subplots_adjust(0.02, 0.005, 0.995, 0.955, 0.02, 0.09)
    for row, name in zip(axes, picks, strict=True):
        fold = next(k for k, fold in enumerate(split.folds) if name in fold)
        shown, maps = panels(by_name[name], args.models / f"fold{fold}")
        for axis, image in zip(row, shown, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        low, high = slice_views.ENHANCEMENT_RANGE
        for axis, enhancement in zip(row[-2:], maps, strict=True):
            axis.imshow(
                np.ma.masked_less(enhancement, low),
                cmap=slice_views.ENHANCEMENT_COLOURS,
                vmin=low,
                vmax=high,
                alpha=0.85,
            )
        row[0].set_title(f"{name}   AUC in tumour {auc[name]:.2f}", color=preview.FAINT, fontsize=7, loc="left", pad=2)
    for column, title in enumerate(COLUMNS):
        figure.text(0.02 + (column + 0.5) * 0.139, 0.978, title, color=preview.INK, fontsize=9, ha="center")
    preview.save(figure, args.out)


if __name__ == "__main__":
    main()
