"""Baselines that need no network: a copy of T1, and a linear regression of T1ce on the other contrasts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dsdiff.comparison.plan import Run
from dsdiff.comparison.scoring import (
    Scores,
    held_out_cases,
    read_copy_baseline,
    score_key,
    score_patient,
    scores_from_json,
    scores_to_json,
)
from dsdiff.data.settings import DataConfig
from dsdiff.evaluation.patient_scores import ScoredPatient
from dsdiff.io import splits
from dsdiff.io.cases import Case, discover_cases, load_volumes
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import normalize
from dsdiff.style.regression import LinearRegression
from dsdiff.system.json_cache import write_json

COPY_BASELINE = "copy of T1"
LINEAR_BASELINE = "linear regression"


def fit_case(case: Case, contrasts: Sequence[str], source_contrast: str = "t1") -> LinearRegression:
    """Fit a linear regression of T1ce on the other contrasts of one case.

    Args:
        case: A case with all contrasts and T1ce.
        contrasts: The regressors.
        source_contrast: The contrast that defines the brain mask and the intensity scale of T1ce.

    Returns:
        The sums of the regression, which can be merged with those of other cases.
    """
    preprocessed = normalize.preprocess(load_volumes(case, (*contrasts, "t1ce")), source_contrast).case
    sources = [preprocessed.images[contrast] for contrast in contrasts]
    regression = LinearRegression(len(contrasts))
    regression.add_patient(sources, preprocessed.images["t1ce"], preprocessed.brain)
    return regression


def score_baselines(runs: Sequence[Run], protocol: str, file: Path) -> None:
    """Score the baselines on the held-out patients of some runs, and write the scores.

    The linear regression of a fold is fitted on the patients of all other folds, as the networks are. Patients that
    cannot be scored are listed in the file.

    Args:
        runs: One run of each fold.
        protocol: Name of the scoring protocol.
        file: JSON file to write.

    Raises:
        ValueError: No patient of the other folds can be read.
    """
    data = runs[0].config.data
    assert data.split is not None
    split = splits.read(data.split)
    case_names = [name for fold in split.folds for name in fold]
    regressions, failed = _fit_cases(runs[0], case_names)

    scores: dict[str, Scores] = {COPY_BASELINE: {}, LINEAR_BASELINE: {}}
    for run in runs:
        held_out = split.held_out(run.fold)
        regression = LinearRegression.merge([r for name, r in regressions.items() if name not in held_out])
        for case in held_out_cases(run):
            if case.name not in regressions:
                continue
            try:
                copy = read_copy_baseline(case)
                linear = _predict_linear(copy, case, regression, data)
                case_scores = {
                    COPY_BASELINE: score_patient(copy, protocol),
                    LINEAR_BASELINE: score_patient(linear, protocol),
                }
            except Exception as error:  # one bad case must not stop the others
                failed[case.name] = str(error)
                continue
            for baseline, baseline_scores in case_scores.items():
                scores[baseline][case.name] = baseline_scores

    content = {
        "key": _baseline_key(runs, protocol),
        "scores": {baseline: scores_to_json(patients) for baseline, patients in scores.items()},
        "failed": failed,
    }
    write_json(content, file)


def read_baselines(runs: Sequence[Run], protocol: str, file: Path) -> dict[str, Scores] | None:
    """Read the scores of the baselines if they are up to date.

    Args:
        runs: One run of each fold.
        protocol: Name of the scoring protocol.
        file: JSON file of `score_baselines`; it need not exist.

    Returns:
        Baseline -> scores; None if the file has none of these runs.
    """
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if content.get("key") != _baseline_key(runs, protocol):
        return None
    return {baseline: scores_from_json(patients) for baseline, patients in content["scores"].items()}


def _fit_cases(run: Run, names: Sequence[str]) -> tuple[dict[str, LinearRegression], dict[str, str]]:
    """The regression of each case, and the reason why a case has none."""
    data = run.config.data
    cases: Mapping[str, Case] = {case.name: case for case in discover_cases(run.cases)}
    regressions: dict[str, LinearRegression] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            regressions[name] = fit_case(cases[name], data.contrasts, data.source_contrast)
        except Exception as error:  # one bad case must not stop the others
            failed[name] = str(error)
    return regressions, failed


def _predict_linear(
    patient: ScoredPatient, case: Case, regression: LinearRegression, data: DataConfig
) -> ScoredPatient:
    """The patient with the regression's prediction as its synthetic T1ce."""
    loaded = normalize.preprocess(load_volumes(case, tuple(data.contrasts)), data.source_contrast)
    sources = [loaded.case.images[contrast] for contrast in data.contrasts]
    prediction = regression.predict(sources, loaded.case.brain).astype(np.float32)
    volume = loaded.geometry.restore(prediction, loaded.case.brain, data.source_contrast)
    return replace(patient, image=to_canonical(volume).array)


def _baseline_key(runs: Sequence[Run], protocol: str) -> dict[str, Any]:
    """What the scores of the baselines depend on."""
    data = runs[0].config.data
    assert data.split is not None
    cases = [case for run in runs for case in held_out_cases(run)]
    return {
        **score_key(cases, protocol),
        "split": splits.read(data.split).hash,
        "folds": [run.fold for run in runs],
        "contrasts": [*data.contrasts],
    }
