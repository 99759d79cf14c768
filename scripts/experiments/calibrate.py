"""Fit postprocessing and calibration of models on held-out patients: python scripts/experiments/calibrate.py DATA

DATA is a folder of cases. Every patient is synthesized by MODELS/fold<k>, which was trained without it and predicts its
error (`process.params.predict_error`). First the weights of the Gaussian scales are fitted (see
`dsdiff.model.postprocess`). A tenth of faint enhancement is removed, which reduces false enhancement (docs/adr/0012).
Then the factor of the predicted standard deviation is fitted, so that 80 % intervals cover 80 % of the voxels.

Both are written into the metadata of the models. The metadata of a fold's model come from the patients of the other
folds, so that scores on its own fold stay unbiased. Those of --also, a model of all patients, come from all patients.
A second run changes nothing.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from eval_real import find_fold_models, read_regions
from jaxtyping import Float
from scipy import stats

from dsdiff.evaluation import voxelwise
from dsdiff.inference.model import load_model
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io import splits
from dsdiff.io.cases import Case, discover_cases, load_volumes
from dsdiff.model import checkpoint, postprocess
from dsdiff.model.postprocess import NormalEquations
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import normalize
from dsdiff.system.console import ProgressCallback, progress_bars

COVERAGE = 0.8  # of the intervals that are calibrated
FAINT_ATTENUATION = 0.1
QUANTILES = np.linspace(0, 1, 1001)  # kept of each patient, so that all patients count the same
MIN_STD = 1e-6  # robust z-scores; avoids a division by zero
CPU = torch.device("cpu")

T = TypeVar("T")
Job = tuple[int, Case, Path]  # fold, patient of the fold, model that was trained without the fold


def fit_patient(case: Case, folder: Path) -> NormalEquations:
    """Compute the normal equations of one held-out patient.

    Args:
        case: Patient with T1ce.
        folder: Model that was trained without it.

    Returns:
        The equations of the weights.

    Raises:
        SystemExit: The model is not conditioned on style.
    """
    torch.set_num_threads(1)
    model = load_model(folder, CPU)
    model = replace(model, metadata=model.metadata.model_copy(update={"postprocessing": None}))
    volumes = load_volumes(case, (*model.contrasts, "t1ce"))
    loaded = normalize.preprocess(volumes, model.config.data.source_contrast)
    preprocessed, geometry = loaded.case, loaded.geometry
    tumour = read_regions(case, geometry.uncrop(preprocessed.brain)).tumour[geometry.box]

    result = Pipeline(model).synthesize_volumes({name: volumes[name] for name in model.contrasts})
    if result.style_image is None:
        sys.exit(f"{folder} is not conditioned on style (conditioning.style is none)")

    return postprocess.normal_equations(
        result.z, result.style_image, preprocessed.images["t1ce"], preprocessed.brain, tumour, preprocessed.spacing
    )


def error_ratios(case: Case, folder: Path) -> Float[np.ndarray, " q"]:
    """Compare the absolute error of one held-out patient with its predicted standard deviation.

    Args:
        case: Patient with T1ce.
        folder: Model that was trained without it.

    Returns:
        Quantiles of their ratio over the brain, without calibration.

    Raises:
        SystemExit: The model does not predict its error.
    """
    torch.set_num_threads(1)
    model = load_model(folder, CPU)
    volumes = load_volumes(case, (*model.contrasts, "t1ce"))
    result = Pipeline(model).synthesize_volumes({name: volumes[name] for name in model.contrasts})
    if result.z_std is None:
        sys.exit(f"{folder} does not predict its error (process.params.predict_error is false)")

    brain = result.case.brain
    truth = to_canonical(volumes["t1ce"]).array[result.geometry.box]
    _, scale = voxelwise.robust_scale(result.z, brain)
    error = np.abs(voxelwise.robust_zscore(result.z, brain) - voxelwise.robust_zscore(truth, brain))[brain]
    ratios = error / np.maximum(result.z_std[brain] / scale, MIN_STD)

    return np.quantile(ratios, QUANTILES) * model.metadata.calibration_factor


def fit_calibration_factor(ratios: Sequence[Float[np.ndarray, " q"]]) -> float:
    """Fit the factor of the standard deviation.

    Args:
        ratios: Quantiles of each patient, see `error_ratios`.

    Returns:
        The factor by which normal intervals of `COVERAGE` cover that share of the voxels.
    """
    normal_quantile = stats.norm.ppf((1 + COVERAGE) / 2)

    return float(np.quantile(np.concatenate(ratios), COVERAGE) / normal_quantile)


def update_metadata(folder: Path, name: str, value: object) -> None:
    """Change one field of a model's metadata.

    Args:
        folder: Model folder.
        name: Field of `ModelMetadata`.
        value: Its new value.
    """
    model = checkpoint.read_model(folder)
    card = (folder / checkpoint.CARD_FILE).read_text(encoding="utf-8")
    metadata = model.metadata.model_copy(update={name: value})
    checkpoint.save_model(folder, model.weights, model.config, card, metadata)
    print(f"{folder}: {name} = {value}")


def run_by_fold(
    compute: Callable[[Case, Path], T], jobs: Sequence[Job], executor: ProcessPoolExecutor, progress: ProgressCallback
) -> dict[int, list[T]]:
    """Compute a result for each patient.

    Args:
        compute: Takes a patient and a model folder.
        jobs: Patients with the models that were trained without them.
        executor: Worker processes.
        progress: Called after each patient.

    Returns:
        Results by fold.
    """
    results: dict[int, list[T]] = {fold: [] for fold, _, _ in jobs}
    cases, folders = [case for _, case, _ in jobs], [folder for _, _, folder in jobs]
    for number, (job, result) in enumerate(zip(jobs, executor.map(compute, cases, folders), strict=True), 1):
        fold, _, _ = job
        results[fold].append(result)
        progress(compute.__name__.replace("_", " "), number, len(jobs))
    return results


def unseen_results(
    folders: Mapping[int, Path], also: Sequence[Path], results: Mapping[int, Sequence[T]]
) -> Iterator[tuple[Path, list[T]]]:
    """Pair each model with the results that may go into its metadata.

    Args:
        folders: Model of each fold.
        also: Models of all patients.
        results: Results by fold.

    Yields:
        A model folder, and the results of the other folds; of all folds for `also`.
    """
    for model_fold, folder in folders.items():
        yield folder, [result for fold in results if fold != model_fold for result in results[fold]]
    for folder in also:
        yield folder, [result for fold in results for result in results[fold]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", type=Path, default=Path("models/folds"))
    parser.add_argument("--split", type=Path, default=Path("models/split.json"))
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="models that were trained on all patients")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()

    split = splits.read(args.split)
    folders = find_fold_models(args.models, split)
    if len(folders) < 2:
        sys.exit(
            f"{args.models} has the model of only one fold; two or more are needed, so that no patient corrects itself"
        )

    cases = {case.name: case for case in discover_cases(args.data)}
    jobs = [(fold, cases[name], folder) for fold, folder in folders.items() for name in split.held_out(fold)]
    with ProcessPoolExecutor(args.workers) as executor, progress_bars(count=True) as progress:
        equations = run_by_fold(fit_patient, jobs, executor, progress)
        for folder, unseen_equations in unseen_results(folders, args.also, equations):
            stacking = postprocess.sum_equations(unseen_equations).solve(FAINT_ATTENUATION)
            update_metadata(folder, "postprocessing", stacking)

        ratios = run_by_fold(error_ratios, jobs, executor, progress)  # with the postprocessing just written
        for folder, unseen_ratios in unseen_results(folders, args.also, ratios):
            update_metadata(folder, "calibration_factor", round(fit_calibration_factor(unseen_ratios), 4))


if __name__ == "__main__":
    main()
