"""Score models on real patients they never saw: python benchmarks/eval_real.py DATA

DATA holds the patients as cases. Fold k of the split is scored with the model folder MODELS/fold<k>, which was trained
on the other folds; the linear regression is fitted on those other folds too. Prints every score of every patient for
our model, a copy of T1, linear regression on the sources, and the truth blurred by 1 mm; then means with 95 % bootstrap
intervals over patients. Writes the same to JSON with --out.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from dsdiff import checkpoint
from dsdiff.benchmark.scoring import learn
from dsdiff.data import cases, nifti, preprocess, splits
from dsdiff.data.cases import Case
from dsdiff.data.style import LinearRegression
from dsdiff.evaluation import baselines, scores, statistics
from dsdiff.evaluation.regions import Regions, regions
from dsdiff.inference import model as models
from dsdiff.inference.synthesize import run
from dsdiff.progress import bars

METHODS = ("model", "copy of T1", "linear regression", "truth blurred 1 mm")
Scores = dict[str, dict[str, float]]  # method -> score -> value


def score_case(case: Case, folder: Path, regression: LinearRegression) -> Scores:
    """Every score of one patient."""
    torch.set_num_threads(1)
    model = models.load(folder, torch.device("cpu"))
    volumes = cases.load(case, (*model.contrasts, "t1ce"))
    result = run({name: volumes[name] for name in model.contrasts}, model)
    arrays = {name: preprocess.to_canonical(volume).array for name, volume in volumes.items()}
    brain, images = result.prepared.brain, result.prepared.images
    predictions = {
        "model": result.z,
        "copy of T1": arrays["t1"],
        "linear regression": regression.predict([images[c] for c in model.contrasts], brain),
        "truth blurred 1 mm": baselines.blurred_truth(arrays["t1ce"], brain),
    }
    where = regions_of(case, brain)
    return {name: scores.score(image, arrays["t1ce"], arrays["t1"], where) for name, image in predictions.items()}


def regions_of(case: Case, brain: np.ndarray) -> Regions:
    """Where to score a patient, from the segmentation where there is one."""
    labels = preprocess.to_canonical(nifti.read(case.files["seg"])).array if "seg" in case.files else None
    return regions(brain, labels)


def evaluate(
    data: Path, model_root: Path, split: splits.Split, workers: int, only: list[str] | None
) -> dict[str, Scores]:
    """Scores of every patient of every fold that has a model."""
    found = {case.name: case for case in cases.discover(data)}
    folds = [(k, model_root / f"fold{k}") for k in range(len(split.folds)) if (model_root / f"fold{k}").is_dir()]
    if not folds:
        sys.exit(f"{model_root} holds no fold0, fold1 ...: train them by `make model`")
    for k, folder in folds:
        facts = checkpoint.read(folder).facts
        if (facts.get("split"), facts.get("fold")) != (split.hash, k):
            sys.exit(f"{folder} was not trained without fold {k} of split {split.hash}: it says {facts}")
        if lost := sorted(set(split.held_out(k)) - set(found)):
            sys.exit(f"{data} lacks patients of the split: {', '.join(lost[:3])}")
    contrasts = models.load(folds[0][1], torch.device("cpu")).contrasts
    with ProcessPoolExecutor(workers) as pool, bars(Console(stderr=True)) as progress:
        task = progress.add_task("linear regression", total=len(found))
        learnt = dict(
            zip(found, tracked(pool.map(learn, found.values(), [contrasts] * len(found)), progress, task), strict=True)
        )
        jobs: list[tuple[Case, Path, LinearRegression]] = []
        for k, folder in folds:
            others = LinearRegression.merged(part for name, part in learnt.items() if name not in split.held_out(k))
            jobs += [(found[name], folder, others) for name in split.held_out(k) if not only or name in only]
        task = progress.add_task("scoring", total=len(jobs))
        results = {}
        for job, result in zip(jobs, pool.map(score_case, *zip(*jobs, strict=True)), strict=True):
            results[job[0].name] = result
            print(rows(job[0].name, result), flush=True)
            progress.advance(task)
        return results


def tracked(items: Iterable, progress, task) -> list:
    """The items as a list, advancing a bar."""
    out = []
    for item in items:
        out.append(item)
        progress.advance(task)
    return out


def rows(patient: str, methods: Scores) -> str:
    """Every score of one patient."""
    return "\n".join(
        f"{patient:22} {method:20}" + "".join(f"{methods[method][name]:12.3f}" for name in scores.SCORES)
        for method in METHODS
    )


def means(results: dict[str, Scores], split: splits.Split) -> str:
    """Means with 95 % intervals over patients and the standard deviation between patients, as Markdown."""
    lines = [f"| mean [95 % interval] SD | {' | '.join(scores.SCORES)} |", "|---" * (len(scores.SCORES) + 1) + "|"]
    for method in METHODS:
        cells = []
        for name in scores.SCORES:
            values = [methods[method][name] for methods in results.values()]
            mean, low, high = statistics.interval(values)
            digits = 1 if name.startswith("psnr") else 2
            cells.append(
                f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] {np.nanstd(values, ddof=1):.{digits}f}"
            )
        lines.append(f"| {method} | {' | '.join(cells)} |")
    counts = [sum(np.isfinite(methods["model"][name]) for methods in results.values()) for name in scores.SCORES]
    lines.append(f"| patients scored | {' | '.join(map(str, counts))} |")
    told = "\n".join(f"- `{name}`: {text}" for name, text in scores.SCORES.items())
    title = f"{len(results)} patients, split `{split.hash}`, each scored by a model that never saw it."
    return "\n".join([title, "", *lines, "", told])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models/folds"))
    parser.add_argument("--split", type=Path, default=Path("models/split.json"))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cases", nargs="*", help="score these patients only, for a quick look")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    if not args.data.is_dir():
        sys.exit(f"{args.data}: no such folder; lay the patients out first and set DSDIFF_REAL_DATA")
    split = splits.read(args.split)
    print(f"{'patient':22} {'method':20}" + "".join(f"{name:>12}" for name in scores.SCORES), flush=True)
    results = evaluate(args.data, args.models, split, args.workers, args.cases)
    print("", means(results, split), sep="\n")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        finite = {
            patient: {m: {s: v if np.isfinite(v) else None for s, v in found.items()} for m, found in methods.items()}
            for patient, methods in results.items()
        }
        args.out.write_text(json.dumps({"split": split.hash, "patients": finite}, indent=1) + "\n")


if __name__ == "__main__":
    main()
