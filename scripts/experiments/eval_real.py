"""Score models on real patients they never saw: python benchmarks/eval_real.py DATA

DATA holds the patients as cases. Fold k of the split is scored with the model folder MODELS/fold<k>, which was trained
on the other folds; the linear regression is fitted on those other folds too. Prints every score of every patient for
our model, a copy of T1, linear regression on the sources, and the truth blurred by 1 mm; then means with 95 % bootstrap
intervals over patients, our model minus every other method, and what enhances falsely in each patient without enhancing
tumour. `--baseline` adds other models of the same folds, as one-step regression without our conditioning. `--unseen
MODEL` scores every case of DATA, such as phantoms, by one model that saw none of them. Writes the same to JSON with
--out.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from scipy import ndimage

from dsdiff.comparison.scoring import learn
from dsdiff.data import splits
from dsdiff.evaluation import baselines, calibration, enhancement, statistics, texture, voxelwise
from dsdiff.evaluation import brain_scores as scores
from dsdiff.evaluation.regions import Regions, regions
from dsdiff.evaluation.results import of_patients
from dsdiff.evaluation.voxelwise import Image
from dsdiff.inference import model as models
from dsdiff.inference.pipeline import SEEN, run
from dsdiff.io import cases
from dsdiff.io.cases import Case
from dsdiff.model import checkpoint
from dsdiff.style.regression import LinearRegression
from dsdiff.system.console import bars
from dsdiff.volume import to_canonical

MORE = {
    "slice_jumps": "steps from slice to slice, of the truth's (1: as it; above: steps between slices)",
    "false_ml": "what enhances where nothing does, ml",
    "error_surface": "share of the squared error (after the linear map) within 4 mm of the brain's surface",
    "error_enhancing": "the same where the truth enhances by 1.5 or more, vessels and meninges included",
    "coverage_80": "share of the brain's voxels within the 80 % interval of the standard deviation that is told",
    "error_correlation": "rank correlation of error and standard deviation in the brain",
}
SCORES = scores.SCORES | MORE
Scores = dict[str, dict[str, float]]  # method -> score -> value


def score_case(case: Case, folders: dict[str, Path], regression: LinearRegression) -> Scores:
    """Every score of one patient. folders: the models, by what they are called."""
    torch.set_num_threads(1)
    loaded = {name: models.load(place, torch.device("cpu")) for name, place in folders.items()}
    contrasts = loaded["model"].contrasts
    volumes = cases.load(case, (*contrasts, "t1ce"))
    made = {name: run({c: volumes[c] for c in model.contrasts}, model) for name, model in loaded.items()}
    if seen := [name for name, result in made.items() if SEEN in result.warnings]:
        sys.exit(f"{case.name} is one of the patients that {folders[seen[0]]} was trained on: nothing to score")
    arrays = {name: to_canonical(volume).array for name, volume in volumes.items()}
    prepared = made["model"].prepared
    whole, brain = prepared.whole, prepared.whole(prepared.brain)
    predictions = {
        name: (whole(result.z), None if result.z_std is None else whole(result.z_std)) for name, result in made.items()
    } | {
        "copy of T1": (arrays["t1"], None),
        "linear regression": (whole(regression.predict([prepared.images[c] for c in contrasts], prepared.brain)), None),
        "truth blurred 1 mm": (baselines.blurred_truth(arrays["t1ce"], brain), None),
    }
    where = regions_of(case, brain)
    return {
        name: scores.score(image, arrays["t1ce"], arrays["t1"], where)
        | more(image, std, arrays["t1ce"], arrays["t1"], where, prepared.spacing)
        for name, (image, std) in predictions.items()
    }


def more(
    image: Image, std: Image | None, truth: Image, t1: Image, where: Regions, spacing: tuple[float, float, float]
) -> dict[str, float]:
    """The scores of MORE; NaN for what a method does not tell."""
    made, true, start = (voxelwise.robust(one, where.brain) for one in (image, truth, t1))
    wrong = np.square(voxelwise.linear_fit(made, true, where.brain) - true) * where.brain
    surface = ndimage.distance_transform_edt(where.brain, sampling=spacing) <= enhancement.SURFACE_MM
    enhances = enhancement.enhancement_map(true, start, where.brain, spacing) > enhancement.THRESHOLD
    found = {
        "slice_jumps": texture.slice_jumps(made, true, where.brain),
        "false_ml": enhancement.score(made, true, start, where, spacing)["false_ml"],
        "error_surface": float(wrong[surface].sum() / wrong.sum()),
        "error_enhancing": float(wrong[enhances].sum() / wrong.sum()),
    }
    if std is None:
        return found | dict.fromkeys(("coverage_80", "error_correlation"), float("nan"))
    spread = std / voxelwise.robust_scale(image, where.brain)[1]
    covered = calibration.coverage(true, made, spread, where.brain, (0.8,))[0.8]
    correlation = calibration.error_correlation(true, made, spread, where.brain)
    return found | {"coverage_80": covered, "error_correlation": correlation}


def regions_of(case: Case, brain: np.ndarray) -> Regions:
    """Where to score a patient, from the segmentation where there is one."""
    if "seg" not in case.named:
        return regions(brain, None)
    return regions(brain, to_canonical(cases.load(case, ("seg",))["seg"]).array, case.name)


def fold_models(root: Path, split: splits.Split) -> dict[int, Path]:
    """The model of each fold, sure to have been trained without it."""
    folders = {k: root / f"fold{k}" for k in range(len(split.folds)) if (root / f"fold{k}").is_dir()}
    if not folders:
        sys.exit(f"{root} holds no fold0, fold1 ...: train them by `make model`")
    for k, folder in folders.items():
        facts = checkpoint.read(folder).facts
        if (facts.get("split"), facts.get("fold")) != (split.hash, k):
            sys.exit(f"{folder} was not trained without fold {k} of split {split.hash}: it says {facts}")
    return folders


@dataclass(frozen=True)
class Job:
    """Models that score a patient (by what they are called), and whom the regression may not learn from."""

    models: dict[str, Path]
    hidden: frozenset[str]


def by_fold(found: Iterable[str], roots: dict[str, Path], split: splits.Split) -> dict[str, Job]:
    """Every patient of a fold that has a model, by the models of that fold. roots: of the models, by their names."""
    folds = {name: fold_models(root, split) for name, root in roots.items()}
    for name, places in folds.items():
        if lacking := sorted(set(folds["model"]) - set(places)):
            sys.exit(f"{roots[name]} has no model of fold {lacking[0]}")
    todo = {}
    for k in folds["model"]:
        names = split.held_out(k)
        if lost := sorted(set(names) - set(found)):
            sys.exit(f"the cases lack patients of the split: {', '.join(lost[:3])}")
        todo |= dict.fromkeys(names, Job({name: places[k] for name, places in folds.items()}, frozenset(names)))
    return todo


def by_one(found: Iterable[str], model: Path) -> dict[str, Job]:
    """Every case by one model that saw none of them."""
    return {name: Job({"model": model}, frozenset([name])) for name in found}


def evaluate(found: dict[str, Case], todo: dict[str, Job], workers: int) -> dict[str, Scores]:
    """Scores of every patient of `todo`."""
    contrasts = models.load(next(iter(todo.values())).models["model"], torch.device("cpu")).contrasts
    with ProcessPoolExecutor(workers) as pool, bars(Console(stderr=True)) as progress:
        task = progress.add_task("linear regression", total=len(found))
        learnt = dict(
            zip(found, tracked(pool.map(learn, found.values(), [contrasts] * len(found)), progress, task), strict=True)
        )
        seen = {
            hidden: LinearRegression.merged(part for name, part in learnt.items() if name not in hidden)
            for hidden in {job.hidden for job in todo.values()}
        }
        jobs = [(found[name], job.models, seen[job.hidden]) for name, job in todo.items()]
        task = progress.add_task("scoring", total=len(jobs))
        results = {}
        for (case, *_), result in zip(jobs, pool.map(score_case, *zip(*jobs, strict=True)), strict=True):
            results[case.name] = result
            print(rows(case.name, result), flush=True)
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
        f"{patient:22} {method:20}" + "".join(f"{found[name]:12.3f}" for name in SCORES)
        for method, found in methods.items()
    )


def means(results: dict[str, Scores], whose: str) -> str:
    """What `main` prints of all patients, as Markdown: means, our model minus each other method, and what is what."""
    told = "\n".join(f"- `{name}`: {text}" for name, text in SCORES.items())
    title = f"{len(results)} patients{whose}, each scored by a model that never saw it."
    return "\n\n".join([title, of_methods(results), differences(results), told, without_enhancement(results)])


def of_methods(results: dict[str, Scores]) -> str:
    """Means with 95 % intervals over patients and the standard deviation between patients."""
    lines = heading("mean [95 % interval] SD")
    for method in next(iter(results.values())):
        cells = []
        for name in SCORES:
            values = column(results, method, name)
            there = [value for value in values if np.isfinite(value)]
            form = ".1f" if name.startswith("psnr") else ".2f"
            deviation = f" {np.std(there, ddof=1):{form}}" if len(there) > 1 else ""
            cells.append(interval(values, form) + deviation)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    counts = [sum(np.isfinite(column(results, "model", name))) for name in SCORES]
    lines.append(f"| patients scored | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def differences(results: dict[str, Scores]) -> str:
    """Our model minus every other method, patient by patient: means with 95 % intervals."""
    lines = heading("model minus")
    for method in list(next(iter(results.values())))[1:]:
        cells = []
        for name in SCORES:
            ours, theirs = column(results, "model", name), column(results, method, name)
            values = [one - other for one, other in zip(ours, theirs, strict=True)]
            cells.append(interval(values, "+.2f"))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def heading(first: str) -> list[str]:
    """The first two lines of a table with a column for every score."""
    return [f"| {first} | {' | '.join(SCORES)} |", "|---" * (len(SCORES) + 1) + "|"]


def column(results: dict[str, Scores], method: str, name: str) -> list[float]:
    """One score of every patient (the mean of visits), in the order of names as in `dsdiff evaluate`: drawn alike."""
    return [scores[name] for scores in of_patients({case: results[case][method] for case in sorted(results)}).values()]


def interval(values: list[float], form: str) -> str:
    """Mean and interval, each printed so; of one patient the mean, of none nothing."""
    mean, *ends = (f"{value:{form}}" if np.isfinite(value) else "" for value in statistics.interval(values))
    return f"{mean} [{', '.join(ends)}]" if all(ends) else mean


def without_enhancement(results: dict[str, Scores]) -> str:
    """What enhances falsely where nothing does, or too little to be scored."""
    none = [name for name, methods in results.items() if not np.isfinite(methods["model"]["auc_tumour"])]
    told = [f"{name} {results[name]['model']['false_ml']:.2f} ml" for name in none]
    return f"False enhancement where nothing is known to enhance: {', '.join(told)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models/folds"))
    parser.add_argument(
        "--baseline", nargs=2, action="append", default=[], metavar=("NAME", "MODELS"), help="may be given again"
    )
    parser.add_argument("--unseen", type=Path, metavar="MODEL", help="score all cases by this model, which saw none")
    parser.add_argument("--split", type=Path, default=Path("models/split.json"))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cases", nargs="*", help="score these patients only, for a quick look")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    if not args.data.is_dir():
        sys.exit(f"{args.data}: no such folder; lay the patients out first and set DSDIFF_REAL_DATA")
    if any(name == "model" for name, _ in args.baseline):
        sys.exit("a --baseline cannot be called 'model': that is what it stands beside")
    if args.unseen and args.baseline:
        sys.exit("--baseline takes the models of folds; --unseen has none")
    split, found = splits.read(args.split), {case.name: case for case in cases.discover(args.data)}
    roots = {"model": args.models} | {name: Path(folder) for name, folder in args.baseline}
    todo = by_one(found, args.unseen) if args.unseen else by_fold(found, roots, split)
    if unknown := sorted(set(args.cases or []) - set(todo)):
        sys.exit(f"{unknown[0]} is in no fold that has a model")
    todo = {name: job for name, job in todo.items() if not args.cases or name in args.cases}
    print(f"{'patient':22} {'method':20}" + "".join(f" {name:>11.11}" for name in SCORES), flush=True)
    results = evaluate(found, todo, args.workers)
    print("", means(results, "" if args.unseen else f", split `{split.hash}`"), sep="\n")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        finite = {
            patient: {
                m: {s: round(v, 5) if np.isfinite(v) else None for s, v in found.items()}
                for m, found in methods.items()
            }
            for patient, methods in results.items()
        }
        args.out.write_text(
            json.dumps({"split": None if args.unseen else split.hash, "patients": finite}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
