"""Plot phantoms beside real patients: python scripts/figures/phantoms.py PHANTOMS REAL docs/pictures/phantoms.png

One axial slice of each, through the largest enhancing or abnormal area; phantoms on the left, patients on the right.
"""

import argparse
from pathlib import Path

import numpy as np

from dsdiff.io.cases import Case, discover_cases, load_volumes
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import normalize
from dsdiff.reporting import figures, preview, slice_views

CONTRASTS = ("t1", "t2", "flair", "t1ce")
CROP = (slice(20, 220), slice(30, 210))  # of a BraTS slice
ENHANCING_WEIGHT = 5.0  # of an enhancing voxel against another tumour voxel, for the choice of the slice
BRAIN_WEIGHT = 1e-3  # without a tumour, the slice with most brain


def render_case(case: Case) -> list[np.ndarray]:
    """Return one slice of each contrast, 0 to 1."""
    volumes = load_volumes(case, (*CONTRASTS, "seg"))
    labels = to_canonical(volumes.pop("seg")).array
    loaded = normalize.preprocess(volumes)
    brain = loaded.geometry.uncrop(loaded.case.brain)
    weight = np.where(labels == 4, ENHANCING_WEIGHT, labels > 0).sum((0, 1)) + BRAIN_WEIGHT * brain.sum((0, 1))
    point = (0, 0, int(weight.argmax()))

    slices = []
    for contrast in CONTRASTS:
        image = loaded.geometry.uncrop(loaded.case.images[contrast])
        low, high = slice_views.gray_window(image, brain)
        level = np.where(brain, (image - low) / (high - low), 0)
        slices.append(slice_views.slice_view(np.clip(level, 0, 1), point, "axial")[CROP])
    return slices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path)
    parser.add_argument("real", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=5, help="number of phantoms and of patients")
    args = parser.parse_args()

    phantoms = [case for case in discover_cases(args.phantoms) if "seg" in case.files][: args.n]
    patients = [case for case in discover_cases(args.real) if "seg" in case.files]
    patients = patients[:: max(1, len(patients) // args.n)][: args.n]

    figure = figures.new_figure(12.4, 1.62 * args.n + 0.4, dpi=90)
    axes = figure.subplots(args.n, 2 * len(CONTRASTS), squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.94, 0.02, 0.02)
    for row, phantom, patient in zip(axes, phantoms, patients, strict=True):
        for axis, image in zip(row, [*render_case(phantom), *render_case(patient)], strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
    labels = [preview.CONTRAST_LABELS[contrast] for contrast in CONTRASTS]
    titles = [f"phantom {label}" for label in labels] + [f"patient {label}" for label in labels]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, color=figures.INK, fontsize=9, pad=3)
    figures.save_png(figure, args.out)


if __name__ == "__main__":
    main()
