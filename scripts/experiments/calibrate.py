"""Correct models by patients that they never saw: python benchmarks/calibrate.py DATA

DATA holds the patients as cases. Every patient is synthesised by MODELS/fold<k>, which never saw it and was asked for
its error (`process.params.predict_error`). First what each scale of the answer is worth (`dsdiff.model.postprocess`), a tenth
of faint enhancement being withheld so that less is drawn where nothing enhances (docs/adr/0012), then, so that 80 %
intervals hold 80 % of voxels, the factor by which standard deviations are multiplied. Both are written into the facts
of the models: into each fold's what the patients of the other folds say, so that what is measured on its own stays
unseen, and into those of --also (the model that saw all) what all say. Running it again changes nothing.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from eval_real import fold_models, regions_of
from jaxtyping import Float
from rich.console import Console
from scipy import stats

from dsdiff.data import splits
from dsdiff.evaluation import voxelwise
from dsdiff.inference import model as models
from dsdiff.inference.pipeline import run
from dsdiff.io import cases
from dsdiff.io.cases import Case
from dsdiff.model import checkpoint, postprocess
from dsdiff.model.postprocess import Lesson
from dsdiff.preprocessing import normalize
from dsdiff.system.console import bars
from dsdiff.volume import to_canonical

LEVEL = 0.8
WITHHELD = 0.1
KEPT = np.linspace(0, 1, 1001)  # quantiles kept of each patient, so that all weigh the same


def teaches(case: Case, folder: Path) -> Lesson:
    """What one patient says of the scales of the network's answer."""
    torch.set_num_threads(1)
    model = replace(models.load(folder, torch.device("cpu")), refinement=None)
    volumes = cases.load(case, (*model.contrasts, "t1ce"))
    known = normalize.apply(volumes, model.config.data.source_contrast)
    tumour = regions_of(case, known.whole(known.brain)).tumour[known.box]
    result = run({name: volumes[name] for name in model.contrasts}, model)
    if result.styled is None:
        sys.exit(f"{folder} was not told a style (conditioning.style is none)")
    return postprocess.lesson(result.z, result.styled, known.images["t1ce"], known.brain, tumour, known.spacing)


def ratios(case: Case, folder: Path) -> Float[np.ndarray, " q"]:
    """Quantiles of absolute error over the standard deviation that the network told, in the brain of one patient."""
    torch.set_num_threads(1)
    model = models.load(folder, torch.device("cpu"))
    volumes = cases.load(case, (*model.contrasts, "t1ce"))
    result = run({name: volumes[name] for name in model.contrasts}, model)
    if result.z_std is None:
        sys.exit(f"{folder} was not asked for its error: process.params.predict_error is false")
    brain = result.prepared.brain
    truth = to_canonical(volumes["t1ce"]).array[result.prepared.box]
    width = voxelwise.robust_scale(result.z, brain)[1]
    error = np.abs(voxelwise.robust(result.z, brain) - voxelwise.robust(truth, brain))[brain]
    return np.quantile(error / np.maximum(result.z_std[brain] / width, 1e-6), KEPT) * model.calibration


def factor(found: list[np.ndarray]) -> float:
    """By what to multiply standard deviations."""
    return float(np.quantile(np.concatenate(found), LEVEL) / stats.norm.ppf((1 + LEVEL) / 2))


def write(folder: Path, told: dict[str, float | str]) -> None:
    """Put what was found into a model's facts."""
    held = checkpoint.read(folder)
    card = (folder / checkpoint.CARD).read_text(encoding="utf-8")
    checkpoint.save(folder, held.weights, held.config, card, {**held.facts, **told})
    print(f"{folder}: {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models/folds"))
    parser.add_argument("--split", type=Path, default=Path("models/split.json"))
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="models that saw every patient")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    split = splits.read(args.split)
    folders = fold_models(args.models, split)
    if len(folders) < 2:
        sys.exit(f"{args.models} has the model of one fold alone: its patients would correct themselves")
    known = {case.name: case for case in cases.discover(args.data)}
    jobs = [(k, known[name], folder) for k, folder in folders.items() for name in split.held_out(k)]
    with ProcessPoolExecutor(args.workers) as pool, bars(Console(stderr=True)) as progress:

        def each(what: Callable[[Case, Path], Any], title: str) -> dict[int, list]:
            """What a function says of every patient, by fold."""
            task, found = progress.add_task(title, total=len(jobs)), {k: [] for k in folders}
            made = pool.map(what, [case for _, case, _ in jobs], [folder for *_, folder in jobs])
            for (k, *_), one in zip(jobs, made, strict=True):
                found[k].append(one)
                progress.advance(task)
            return found

        lessons = each(teaches, "scales")
        for folder, others in seen(folders, args.also, lessons):
            write(folder, {"refinement": postprocess.together(others).refinement(WITHHELD).dump()})
        errors = each(ratios, "errors")
        for folder, others in seen(folders, args.also, errors):
            write(folder, {"calibration": round(factor(others), 4)})


def seen(folders: dict[int, Path], also: list[Path], found: dict[int, list]) -> Iterator[tuple[Path, list]]:
    """Every model, with what the patients say that are not to be kept from it: of the other folds, or all."""
    for fold, folder in folders.items():
        yield folder, [one for other, some in found.items() if other != fold for one in some]
    for folder in also:
        yield folder, [one for some in found.values() for one in some]


if __name__ == "__main__":
    main()
