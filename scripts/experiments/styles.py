"""Measure how much of T1ce is style, and how well other patients predict the style.

python scripts/experiments/styles.py STORE

For every patient of a prepared store: PSNR fit in the brain (dB, every eighth voxel) of T1, and of T1 rendered as T1ce
in each kind of style. The style is fitted on the patient's own T1ce, averaged over all other patients, or retrieved
from the other patients with the most similar sources (`dsdiff.style.retrieval`). Prints means over patients as
Markdown.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dsdiff.data import store
from dsdiff.data.dataset import TrainingPatient
from dsdiff.evaluation import voxelwise
from dsdiff.qc.ood import MIN_PATIENTS
from dsdiff.style import regression, retrieval
from dsdiff.style.regression import KNOTS, LinearRegression, StyleCode, StyleKind


@dataclass(frozen=True)
class BrainVoxels:
    """Every eighth voxel of a brain: sources (contrasts x voxels) and T1ce (voxels)."""

    sources: np.ndarray
    target: np.ndarray


def read_brain_voxels(patient: TrainingPatient) -> BrainVoxels:
    """Read every second voxel of the brain along each axis.

    Args:
        patient: The patient.

    Returns:
        Its voxels.
    """
    images, region = patient.slices.load_all()
    in_brain = np.asarray(region)[::2, ::2, ::2] > 0
    voxels = np.asarray(images[:, ::2, ::2, ::2], np.float32)[:, in_brain]
    return BrainVoxels(voxels[:-1], voxels[-1])


def psnr_after_fit(image: np.ndarray, truth: np.ndarray) -> float:
    """Compute the PSNR of an image after the best linear map to the truth.

    Args:
        image: Voxels of the image.
        truth: Voxels of the truth.

    Returns:
        PSNR in dB.
    """
    mask = np.ones(truth.shape, bool)
    fitted = voxelwise.fit_linear_map(image, truth, mask)
    return voxelwise.psnr(fitted, truth, mask, voxelwise.data_range(truth, mask))


def mean_psnr(style_codes: list[StyleCode], patients: list[BrainVoxels]) -> float:
    """Render every patient in its style, and compute the mean PSNR.

    Args:
        style_codes: Style of each patient.
        patients: Voxels of each patient.

    Returns:
        PSNR in dB.
    """
    scores = []
    for style_code, voxels in zip(style_codes, patients, strict=True):
        weights = torch.from_numpy(style_code.weights).float()
        rendered = regression.render_style(weights, style_code.kind, torch.from_numpy(voxels.sources))
        scores.append(psnr_after_fit(rendered.numpy(), voxels.target))
    return float(np.mean(scores))


def style_row(kind: StyleKind, patients: list[TrainingPatient], voxels: list[BrainVoxels]) -> str:
    """Measure one kind of style.

    Args:
        kind: Kind of the style.
        patients: The patients.
        voxels: Voxels of each patient.

    Returns:
        One row of the table.
    """
    regressions = [patient.slices.fit_style(kind) for patient in patients]
    retriever = retrieval.fit_retriever([patient.features for patient in patients], regressions)
    assert retriever is not None, f"fewer than {MIN_PATIENTS} patients"

    fitted = [regression.style_code for regression in regressions]
    average, retrieved = [], []
    for k, patient in enumerate(patients):
        average.append(LinearRegression.merge(regressions[:k] + regressions[k + 1 :]).style_code)
        retrieved.append(retriever.predict_style(patient.features, exclude=(k,)))

    cells = [f"{mean_psnr(style_codes, voxels):.2f}" for style_codes in (fitted, average, retrieved)]
    kilobytes = len(json.dumps(retriever.to_dict())) / 1e3
    return f"| {kind} | {' | '.join(cells)} | {kilobytes:.0f} |"


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="prepared store (dsdiff prepare)")
    args = parser.parse_args()

    opened = store.open_store(args.store)
    settings = opened.settings
    patients = list(opened.load_patients(settings.contrasts, settings.target, settings.source_contrast))
    voxels = [read_brain_voxels(patient) for patient in patients]
    t1_psnr = np.mean([psnr_after_fit(patient.sources[0], patient.target) for patient in voxels])
    print(f"T1: {t1_psnr:.2f} dB, {len(patients)} patients\n")
    print("| T1ce in the style of | own T1ce | average of other patients | similar patients | KB in a model |")
    print("|---|---|---|---|---|")
    for kind in KNOTS:
        print(style_row(kind, patients, voxels))


if __name__ == "__main__":
    main()
