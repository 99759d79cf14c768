"""Every kind of augmentation on one slice of a patient: python benchmarks/augment_picture.py CASE OUT.png

Each at its default strength and always; all draw from the same seed. Rows: contrasts, T1ce, region.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from dsdiff.data import batch_sampling as batches
from dsdiff.data import dataset
from dsdiff.data.augment import AugmentConfig
from dsdiff.io import cases

ROWS = ("t1", "t2", "flair", "t1ce", "region")
CROP = (144, 176)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    (case,) = cases.discover(args.case)
    plain = batches.draw([dataset.load(case, ROWS[:3], ROWS[3])], 1, CROP, 3, 1.0, np.random.default_rng(args.seed))
    off = AugmentConfig.off().model_dump()
    shown = {"none": plain}
    for kind in AugmentConfig.model_fields:
        config = AugmentConfig.model_validate(off | {kind: {"probability": 1.0}})
        shown[kind] = batches.augmented(plain, config, torch.Generator().manual_seed(args.seed))
    figure = Figure((1.25 * len(shown), 1.28 * len(ROWS) * CROP[1] / CROP[0]), dpi=100, layout="constrained")
    panels = figure.subplots(len(ROWS), len(shown))
    for column, (kind, one) in enumerate(shown.items()):
        images = [*one.sources[0, :, 1], one.target[0, 0], 3.0 * one.region[0, 0] - 3]
        for row, (name, image) in enumerate(zip(ROWS, images, strict=True)):
            panel = panels[row, column]
            panel.imshow(image.numpy().T[::-1], cmap="gray", vmin=-4, vmax=6)
            panel.set(xticks=[], yticks=[], title=kind if row == 0 else "", ylabel=name if column == 0 else "")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, metadata={"Software": None})


if __name__ == "__main__":
    main()
