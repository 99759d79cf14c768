"""Score models on real patients that they never saw: python scripts/experiments/eval_real.py DATA

DATA is a folder of cases. Fold k of the split is scored by the model MODELS/fold<k>, which was trained on the other
folds; the linear regression is fitted on the other folds too. The script prints every score of every patient for the
model, a copy of T1, linear regression on the sources, and the truth blurred by 1 mm. Then it prints means with 95 %
bootstrap intervals over patients, the model minus every other method, and the false enhancement of each patient without
enhancing tumour. `--baseline` adds other models of the same folds, such as one-step regression without our
conditioning. `--unseen MODEL` scores every case of DATA, such as phantoms, by one model that saw none of them. `--out`
writes all scores as JSON.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from eval_tables import COLUMN_TITLES, MODEL, Scores, format_patient, format_summary
from scipy import ndimage

from dsdiff.comparison.baselines import COPY_BASELINE, LINEAR_BASELINE, fit_case
from dsdiff.evaluation import calibration, enhancement, lesion_detection, texture, voxelwise
from dsdiff.evaluation.brain_scores import score_brain
from dsdiff.evaluation.regions import Regions, make_regions
from dsdiff.inference.input_check import TRAINING_PATIENT
from dsdiff.inference.model import load_model
from dsdiff.inference.pipeline import Pipeline, SynthesisResult
from dsdiff.io import splits
from dsdiff.io.cases import Case, discover_cases, load_volumes
from dsdiff.io.splits import Split
from dsdiff.model import checkpoint
from dsdiff.orientation import to_canonical
from dsdiff.style.regression import LinearRegression
from dsdiff.system.console import ProgressCallback, progress_bars
from dsdiff.volume import Mask3D, Volume3D, VoxelSpacing

BLURRED_TRUTH = "truth blurred 1 mm"


def score_case(case: Case, model_folders: Mapping[str, Path], regression: LinearRegression) -> Scores:
    """Compute every score of one patient by every method. model_folders: method -> folder of its model."""
    torch.set_num_threads(1)
    results = synthesize(case, model_folders)
    geometry, preprocessed = results[MODEL].geometry, results[MODEL].case
    brain = geometry.uncrop(preprocessed.brain)
    contrasts = load_model(model_folders[MODEL], torch.device("cpu")).contrasts
    volumes = load_volumes(case, tuple(dict.fromkeys((*contrasts, "t1", "t1ce"))))
    t1, truth = to_canonical(volumes["t1"]).array, to_canonical(volumes["t1ce"]).array

    predictions: dict[str, tuple[Volume3D, Volume3D | None]] = {}
    for method, result in results.items():
        std = None if result.z_std is None else geometry.uncrop(result.z_std)
        predictions[method] = (geometry.uncrop(result.z), std)
    linear = regression.predict([preprocessed.images[contrast] for contrast in contrasts], preprocessed.brain)
    predictions[COPY_BASELINE] = (t1, None)
    predictions[LINEAR_BASELINE] = (geometry.uncrop(linear), None)
    predictions[BLURRED_TRUTH] = (voxelwise.blur_truth(truth, brain), None)

    regions = read_regions(case, brain)
    scores: Scores = {}
    for method, (image, std) in predictions.items():
        extra_scores = score_extra(image, truth, t1, regions, preprocessed.spacing)
        calibration_scores = score_calibration(image, std, truth, brain)
        scores[method] = score_brain(image, truth, t1, regions) | extra_scores | calibration_scores
    return scores


def synthesize(case: Case, model_folders: Mapping[str, Path]) -> dict[str, SynthesisResult]:
    """Synthesize the T1ce of one patient by every model. Exits if the patient was in a training set."""
    results = {}
    for method, folder in model_folders.items():
        model = load_model(folder, torch.device("cpu"))
        results[method] = Pipeline(model).synthesize_volumes(load_volumes(case, model.contrasts))
        if TRAINING_PATIENT in results[method].warnings:
            sys.exit(f"{case.name} is one of the patients that {folder} was trained on; it cannot be scored")
    return results


def score_extra(
    image: Volume3D, truth: Volume3D, t1: Volume3D, regions: Regions, spacing: VoxelSpacing
) -> dict[str, float]:
    """Compute the first four scores of `eval_tables.EXTRA_DESCRIPTIONS`."""
    brain = regions.brain
    synthetic, acquired, source = (voxelwise.robust_zscore(volume, brain) for volume in (image, truth, t1))
    squared_error = np.square(voxelwise.fit_linear_map(synthetic, acquired, brain) - acquired) * brain
    is_surface = ndimage.distance_transform_edt(brain, sampling=spacing) <= lesion_detection.SURFACE_MARGIN_MM
    acquired_map = enhancement.enhancement_map(acquired, source, brain, spacing)
    lesion_scores = lesion_detection.score_lesions(synthetic, acquired, source, regions, spacing)
    enhancing_error = squared_error[acquired_map > enhancement.ENHANCEMENT_THRESHOLD].sum()
    return {
        "slice_jumps": texture.slice_jumps(synthetic, acquired, brain),
        "false_ml": lesion_scores["false_ml"],
        "error_surface": float(squared_error[is_surface].sum() / squared_error.sum()),
        "error_enhancing": float(enhancing_error / squared_error.sum()),
    }


def score_calibration(image: Volume3D, std: Volume3D | None, truth: Volume3D, brain: Mask3D) -> dict[str, float]:
    """Compute the last two scores of `eval_tables.EXTRA_DESCRIPTIONS`; NaN without a standard deviation."""
    if std is None:
        return {"coverage_80": float("nan"), "error_correlation": float("nan")}
    synthetic, acquired = voxelwise.robust_zscore(image, brain), voxelwise.robust_zscore(truth, brain)
    scaled_std = std / voxelwise.robust_scale(image, brain)[1]
    return {
        "coverage_80": calibration.coverage(acquired, synthetic, scaled_std, brain, (0.8,))[0.8],
        "error_correlation": calibration.error_correlation(acquired, synthetic, scaled_std, brain),
    }


def read_regions(case: Case, brain: Mask3D) -> Regions:
    """Make the regions of a patient, from the segmentation if there is one."""
    if "seg" not in case.contrasts:
        return make_regions(brain, None)
    return make_regions(brain, to_canonical(load_volumes(case, ("seg",))["seg"]).array, case.name)


def find_fold_models(root: Path, split: Split) -> dict[int, Path]:
    """Find the model of each fold below a folder, and check that it was trained without the fold."""
    folders = {fold: root / f"fold{fold}" for fold in range(len(split.folds)) if (root / f"fold{fold}").is_dir()}
    if not folders:
        sys.exit(f"{root} has no folder fold0, fold1 ...; train the models by `make model`")
    for fold, folder in folders.items():
        held_out_fold = checkpoint.read_metadata(folder).held_out_fold
        if held_out_fold != (split.hash, fold):
            sys.exit(f"{folder} was not trained without fold {fold} of split {split.hash}, but without {held_out_fold}")
    return folders


@dataclass(frozen=True)
class Job:
    """How to score one patient: method -> model folder, and the patients on which the regression is not fitted."""

    model_folders: dict[str, Path]
    held_out: frozenset[str]


def jobs_by_fold(case_names: Iterable[str], roots: Mapping[str, Path], split: Split) -> dict[str, Job]:
    """Return patient -> job, for every fold with a model. roots: method -> folder of its models."""
    fold_models = {method: find_fold_models(root, split) for method, root in roots.items()}
    for method, folders in fold_models.items():
        if missing := sorted(set(fold_models[MODEL]) - set(folders)):
            sys.exit(f"{roots[method]} has no model of fold {missing[0]}")

    jobs: dict[str, Job] = {}
    for fold in fold_models[MODEL]:
        names = split.held_out(fold)
        if missing_cases := sorted(set(names) - set(case_names)):
            sys.exit(f"the cases lack patients of the split: {', '.join(missing_cases[:3])}")
        model_folders = {method: folders[fold] for method, folders in fold_models.items()}
        jobs |= dict.fromkeys(names, Job(model_folders, frozenset(names)))
    return jobs


def jobs_for_model(case_names: Iterable[str], folder: Path) -> dict[str, Job]:
    """Return patient -> job, for one model that saw none of the patients."""
    return {name: Job({MODEL: folder}, frozenset([name])) for name in case_names}


def evaluate(cases: Mapping[str, Case], jobs: Mapping[str, Job], workers: int) -> dict[str, Scores]:
    """Score the patient of every job, and print the scores as they come."""
    contrasts = load_model(next(iter(jobs.values())).model_folders[MODEL], torch.device("cpu")).contrasts
    results: dict[str, Scores] = {}
    with ProcessPoolExecutor(workers) as pool, progress_bars(count=True) as progress:
        parts = pool.map(fit_case, cases.values(), [contrasts] * len(cases))
        regressions = merge_regressions(dict(zip(cases, counted(parts, len(cases), progress), strict=True)), jobs)
        scores_in_order = pool.map(
            score_case,
            [cases[name] for name in jobs],
            [job.model_folders for job in jobs.values()],
            [regressions[job.held_out] for job in jobs.values()],
        )
        for name, scores in zip(jobs, scores_in_order, strict=True):
            results[name] = scores
            print(format_patient(name, scores), flush=True)
            progress("scoring", len(results), len(jobs))
    return results


def counted(
    regressions: Iterable[LinearRegression], total: int, progress: ProgressCallback
) -> Iterable[LinearRegression]:
    """Yield the regressions of single patients, and report the progress."""
    for completed, regression in enumerate(regressions, 1):
        progress("linear regression", completed, total)
        yield regression


def merge_regressions(
    parts: Mapping[str, LinearRegression], jobs: Mapping[str, Job]
) -> dict[frozenset[str], LinearRegression]:
    """Return held-out patients -> regression over all other patients."""
    regressions = {}
    for held_out in {job.held_out for job in jobs.values()}:
        regressions[held_out] = LinearRegression.merge(part for name, part in parts.items() if name not in held_out)
    return regressions


def write_json(results: Mapping[str, Scores], split_hash: str | None, path: Path) -> None:
    """Write all scores as JSON; NaN and infinity are null."""
    patients: dict[str, dict[str, dict[str, float | None]]] = {}
    for patient, scores in results.items():
        patients[patient] = {}
        for method, values in scores.items():
            rounded = {name: round(value, 5) if np.isfinite(value) else None for name, value in values.items()}
            patients[patient][method] = rounded
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"split": split_hash, "patients": patients}, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line, and exit if options contradict each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models/folds"))
    parser.add_argument(
        "--baseline", nargs=2, action="append", default=[], metavar=("NAME", "MODELS"), help="can be repeated"
    )
    parser.add_argument("--unseen", type=Path, metavar="MODEL", help="score all cases by this model, which saw none")
    parser.add_argument("--split", type=Path, default=Path("models/split.json"))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cases", nargs="*", help="score only these patients, for a quick look")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()

    if not args.data.is_dir():
        sys.exit(f"{args.data}: no such folder; lay the patients out first and set DSDIFF_REAL_DATA")
    if any(name == MODEL for name, _ in args.baseline):
        sys.exit(f"a --baseline cannot be called '{MODEL}'; give it another name")
    if args.unseen and args.baseline:
        sys.exit("--baseline needs the models of folds; --unseen has none")
    return args


def main() -> None:
    args = parse_arguments()
    split = splits.read(args.split)
    cases = {case.name: case for case in discover_cases(args.data)}
    if args.unseen:
        jobs = jobs_for_model(cases, args.unseen)
    else:
        roots = {MODEL: args.models} | {name: Path(folder) for name, folder in args.baseline}
        jobs = jobs_by_fold(cases, roots, split)
    if unknown := sorted(set(args.cases or []) - set(jobs)):
        sys.exit(f"{unknown[0]} is in no fold that has a model")
    jobs = {name: job for name, job in jobs.items() if not args.cases or name in args.cases}

    print(f"{'patient':22} {'method':20}" + "".join(f" {title:>11.11}" for title in COLUMN_TITLES.values()), flush=True)
    results = evaluate(cases, jobs, args.workers)
    print("", format_summary(results, "" if args.unseen else f", split `{split.hash}`"), sep="\n")
    if args.out:
        write_json(results, None if args.unseen else split.hash, args.out)


if __name__ == "__main__":
    main()
