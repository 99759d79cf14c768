"""How much of T1ce is style, and how much of it others tell: python benchmarks/styles.py STORE

For every patient of a prepared store, PSNR fit in the brain (dB, every eighth voxel) of T1 as it is and of T1ce as
either kind of style draws it: fitted on its own truth, expected from the average of the others, and from those of the
others whose sources are most like its own (see `data.nearest`). Prints means over patients as Markdown.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from dsdiff.data import store
from dsdiff.evaluation import voxelwise
from dsdiff.style import regression, retrieval
from dsdiff.style.regression import KNOTS, LinearRegression


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    opened = store.open_store(parser.parse_args().store)
    patients = opened.patients(opened.settings.contrasts, opened.settings.target, opened.settings.start)
    voxels = []
    for patient in patients:
        images, region = patient.slices.whole()
        kept = np.asarray(region)[::2, ::2, ::2] > 0
        voxels.append(np.asarray(images[:, ::2, ::2, ::2], np.float32)[:, kept])

    def psnr(drawn: np.ndarray, truth: np.ndarray) -> float:
        everywhere = np.ones(truth.shape, bool)
        fitted = voxelwise.linear_fit(drawn, truth, everywhere)
        return voxelwise.psnr(fitted, truth, everywhere, voxelwise.data_range(truth, everywhere))

    def mean(codes: list[np.ndarray]) -> float:
        drawn = [
            regression.drawn(torch.from_numpy(c).float(), torch.from_numpy(v[:-1]))
            for c, v in zip(codes, voxels, strict=True)
        ]
        return float(np.mean([psnr(d.numpy(), v[-1]) for d, v in zip(drawn, voxels, strict=True)]))

    print(f"T1 as it is: {np.mean([psnr(v[0], v[-1]) for v in voxels]):.2f} dB, {len(patients)} patients\n")
    print(
        "| T1ce as | own truth | average of the others | nearest of the others | KB in a model |\n|---|---|---|---|---|"
    )
    for kind in KNOTS:
        own = [patient.slices.style(kind) for patient in patients]
        known = retrieval.learn([patient.measured for patient in patients], own)
        assert known is not None, f"fewer than {retrieval.FEWEST} patients"
        average = [LinearRegression.merged(own[:i] + own[i + 1 :]).weights for i in range(len(own))]
        near = [known.code(patient.measured, besides=i) for i, patient in enumerate(patients)]
        cells = [f"{mean(codes):.2f}" for codes in ([one.weights for one in own], average, near)]
        print(f"| {kind} | {' | '.join(cells)} | {len(known.dump()) / 1e3:.0f} |")


if __name__ == "__main__":
    main()
