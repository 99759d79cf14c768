"""Draw phantoms beside real patients: python benchmarks/phantom_picture.py PHANTOMS REAL docs/pictures/phantoms.png

One axial slice of each, through the largest enhancing or abnormal part; phantoms on the left, patients on the right.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dsdiff.io import cases
from dsdiff.io.cases import Case
from dsdiff.preprocessing import normalize
from dsdiff.reporting import preview, slice_views
from dsdiff.volume import to_canonical

CONTRASTS = ("t1", "t2", "flair", "t1ce")


def slices(case: Case) -> list[np.ndarray]:
    """The four contrasts of one case through its lesion, each windowed to 0..1."""
    volumes = cases.load(case, (*CONTRASTS, "seg"))
    labels = to_canonical(volumes.pop("seg")).array
    prepared = normalize.apply(volumes)
    brain = prepared.whole(prepared.brain)
    weight = np.where(labels == 4, 5.0, labels > 0).sum((0, 1)) + 1e-3 * brain.sum((0, 1))
    point = (0, 0, int(weight.argmax()))
    shown = []
    for name in CONTRASTS:
        whole = prepared.whole(prepared.images[name])
        low, high = slice_views.window(whole, brain)
        image = np.where(brain, (whole - low) / (high - low), 0)
        shown.append(slice_views.plane(np.clip(image, 0, 1), point, "axial")[20:220, 30:210])
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path)
    parser.add_argument("real", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=5)
    args = parser.parse_args()
    simulated = [case for case in cases.discover(args.phantoms) if "seg" in case.files][: args.n]
    real = [case for case in cases.discover(args.real) if "seg" in case.files]
    real = real[:: max(1, len(real) // args.n)][: args.n]
    figure = Figure(figsize=(12.4, 1.62 * args.n + 0.4), facecolor=preview.BACKGROUND, dpi=90)
    axes = figure.subplots(args.n, 8, squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.94, 0.02, 0.02)
    for row, pair in zip(axes, zip(simulated, real, strict=True), strict=True):
        for axis, image in zip(row, [*slices(pair[0]), *slices(pair[1])], strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
    for axis, title in zip(
        axes[0], [f"{side} {preview.LABELS[c]}" for side in ("phantom", "patient") for c in CONTRASTS], strict=True
    ):
        axis.set_title(title, color=preview.INK, fontsize=9, pad=3)
    preview.save(figure, args.out)


if __name__ == "__main__":
    main()
