"""Plot every kind of augmentation on one slice of a patient: python scripts/figures/augmentation.py CASE OUT.png

One column per augmentation, at its default strength and with probability 1, all by the same seed. One row per contrast,
then T1ce and the region map.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from dsdiff.data import preparation
from dsdiff.data.batch_sampling import Batch, augment_batch, sample_batch
from dsdiff.data.settings import AugmentConfig, DataConfig
from dsdiff.io.cases import discover_cases
from dsdiff.reporting import figures

ROWS = ("t1", "t2", "flair", "t1ce", "region")
CROP = (144, 176)
GRAY_RANGE = (-4, 6)  # robust z-scores shown black and white


def augment_by_kind(batch: Batch, seed: int) -> dict[str, Batch]:
    """Return title -> batch: without augmentation, and with each kind alone."""
    off = AugmentConfig.off().model_dump()
    batches = {"none": batch}
    for kind in AugmentConfig.model_fields:
        config = AugmentConfig.model_validate(off | {kind: {"probability": 1.0}})
        batches[kind] = augment_batch(batch, config, torch.Generator().manual_seed(seed))
    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()

    (case,) = discover_cases(args.case)
    data = DataConfig(crop=CROP, context_slices=3, lesion_fraction=1.0)
    patient = preparation.load_patient(case, ROWS[:3], ROWS[3])
    batches = augment_by_kind(sample_batch([patient], 1, data, np.random.default_rng(args.seed)), args.seed)

    width, height = 1.25 * len(batches), 1.28 * len(ROWS) * CROP[1] / CROP[0]
    figure = figures.new_figure(width, height, figures.LIGHT_BACKGROUND, 100, "constrained")
    axes = figure.subplots(len(ROWS), len(batches))
    for column, (kind, batch) in enumerate(batches.items()):
        region = 3.0 * batch.region[0, 0] - 3
        images = [*batch.sources[0, :, 1], batch.target[0, 0], region]
        for row, (label, image) in enumerate(zip(ROWS, images, strict=True)):
            axis = axes[row, column]
            axis.imshow(image.numpy().T[::-1], cmap="gray", vmin=GRAY_RANGE[0], vmax=GRAY_RANGE[1])
            axis.set(xticks=[], yticks=[], title=kind if row == 0 else "", ylabel=label if column == 0 else "")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figures.save_png(figure, args.out)


if __name__ == "__main__":
    main()
