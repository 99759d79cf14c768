"""Collect the scores of all runs into the results of a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dsdiff.backbones import registry
from dsdiff.comparison import scoring
from dsdiff.comparison.plan import Method, MethodsByArm, reference_fold_runs
from dsdiff.comparison.runner import FailedRuns
from dsdiff.comparison.scoring import Scores
from dsdiff.comparison_report.pairwise import compare_to_reference
from dsdiff.comparison_report.published import PUBLISHED_RESULTS
from dsdiff.comparison_report.results import ArmResult, MethodResult, ModelCost, primary_metrics
from dsdiff.errors import DsdiffError
from dsdiff.evaluation.results import average_visits
from dsdiff.evaluation.statistics import CandidateScores
from dsdiff.io.file_names import patient_id


@dataclass(frozen=True)
class Measurements:
    """All that is known of the candidates besides their scores.

    Attributes:
        costs: Candidate -> cost of its network.
        seconds_per_step: Candidate -> seconds of a training step.
        baselines: Baseline -> scores.
    """

    costs: Mapping[str, ModelCost]
    seconds_per_step: Mapping[str, float]
    baselines: Mapping[str, Scores]


@dataclass(frozen=True)
class MethodScores:
    """Scores of one method.

    Attributes:
        by_seed: Seed -> scores of the patients of all folds.
        seconds: Seconds of every synthesis.
        unscored: "method, steps, seed, fold: patient" that could not be scored -> reason.
    """

    by_seed: dict[int, Scores]
    seconds: list[float]
    unscored: dict[str, str]


def scored_patients(arms: MethodsByArm) -> list[str]:
    """List the patients on which the methods are scored.

    Args:
        arms: The methods of each arm.

    Returns:
        Sorted patient names.
    """
    names: set[str] = set()
    for run in reference_fold_runs(arms):
        names.update(patient_id(case.name) for case in scoring.held_out_cases(run))
    return sorted(names)


def collect_results(
    arms: MethodsByArm, failed: FailedRuns, measurements: Measurements, protocol: str
) -> tuple[list[ArmResult], dict[str, str]]:
    """Collect the results of all arms.

    Args:
        arms: The methods of each arm.
        failed: The runs that failed; a method with a failed run is incomplete.
        measurements: Costs and baselines.
        protocol: Name of the scoring protocol.

    Returns:
        One result for each arm, and the patients that could not be scored, with the reason.

    Raises:
        DsdiffError: A run of the reference failed, so there is nothing to compare with.
    """
    patients = scored_patients(arms)
    arm_results = []
    unscored: dict[str, str] = {}
    for title, methods in arms.items():
        results: list[MethodResult] = []
        incomplete: dict[str, str] = {}
        for method in methods:
            if reason := _failure_reason(method, failed):
                incomplete[method.candidate.name] = reason
                continue
            scores = _read_method_scores(method, protocol)
            unscored.update(scores.unscored)
            results.append(_method_result(method, scores, measurements, patients))

        _check_reference(methods[0], incomplete)
        for name, baseline_scores in measurements.baselines.items():
            results.append(MethodResult(name, _score_matrices([baseline_scores], patients)))
        pairwise = compare_to_reference(results, primary_metrics(protocol))
        arm_results.append(ArmResult(title, tuple(results), tuple(pairwise), incomplete))
    return arm_results, unscored


def _failure_reason(method: Method, failed: FailedRuns) -> str:
    reasons = [failed[run.folder] for run in method.runs if failed.get(run.folder)]
    return f"{len(reasons)} of {len(method.runs)} runs failed: {reasons[0]}" if reasons else ""


def _check_reference(reference: Method, incomplete: Mapping[str, str]) -> None:
    name = reference.candidate.name
    if name in incomplete:
        raise DsdiffError(f"the reference {name} is incomplete ({incomplete[name]}); finished runs are kept")


def _read_method_scores(method: Method, protocol: str) -> MethodScores:
    scores = MethodScores({}, [], {})
    for run in method.runs:
        run_scores = scoring.read_scores(run, protocol)
        if run_scores is None:
            raise DsdiffError(f"{run.folder} has no scores for protocol {protocol}")
        scores.by_seed.setdefault(run.config.seed, {}).update(run_scores.patients)
        scores.seconds.extend(run_scores.synthesis_seconds.values())

        run_name = f"{method.candidate.name}, {method.n_steps} steps, seed {run.config.seed}, fold {run.fold}"
        for patient, reason in run_scores.failed.items():
            scores.unscored[f"{run_name}: {patient}"] = reason
    return scores


def _method_result(
    method: Method, scores: MethodScores, measurements: Measurements, patients: Sequence[str]
) -> MethodResult:
    candidate = method.candidate
    seeds = sorted(scores.by_seed)
    published = None
    if candidate.config.process.target != "regression":
        published = PUBLISHED_RESULTS.get(registry.registered_name(candidate.config.backbone.target))

    return MethodResult(
        name=candidate.name,
        scores=_score_matrices([scores.by_seed[seed] for seed in seeds], patients),
        n_steps=method.n_steps,
        n_runs=len(method.runs),
        seeds=tuple(seeds),
        seconds_per_step=measurements.seconds_per_step.get(candidate.name),
        cost=measurements.costs.get(candidate.name),
        seconds_per_volume=float(np.median(scores.seconds)) if scores.seconds else None,
        published=published,
    )


def _score_matrices(scores_by_seed: Sequence[Scores], patients: Sequence[str]) -> dict[str, CandidateScores]:
    """Every score as a matrix, seeds x patients: the mean of the patient's visits, NaN if there is none."""
    averaged = [average_visits(scores) for scores in scores_by_seed]
    names: dict[str, None] = {}  # in the order of their first appearance
    for patient_scores in averaged:
        for scores in patient_scores.values():
            names.update(dict.fromkeys(scores))
    return {name: np.array([_score_row(scores, name, patients) for scores in averaged]) for name in names}


def _score_row(scores: Scores, name: str, patients: Sequence[str]) -> list[float]:
    return [scores.get(patient, {}).get(name, float("nan")) for patient in patients]
