"""From the request to the runs of every arm: the cohort is prepared, the candidates are built and timed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsdiff.backbones import registry
from dsdiff.comparison import costs, existing_runs, plan, scoring, throughput
from dsdiff.comparison.candidates import Candidate, load_candidates, regression_baseline
from dsdiff.comparison.options import ComparisonOptions, ComparisonRequest
from dsdiff.comparison.plan import MethodsByArm, Run, RunGrid, list_methods
from dsdiff.config.overrides import list_config_folders
from dsdiff.data import build_store
from dsdiff.data.store import StoreSettings, open_store
from dsdiff.errors import CaseError, ConfigError, DsdiffError
from dsdiff.io import splits
from dsdiff.io.cases import discover_cases
from dsdiff.system.console import ProgressCallback, ignore_progress

CALIBRATION_FILE = "calibration.json"
STORE_FOLDER = "store"


@dataclass(frozen=True)
class ComparisonSetup:
    """A comparison that is ready to run.

    Attributes:
        arms: The methods of each arm.
        seconds_per_step: Candidate name -> seconds of one training step.
        excluded: Candidate or run that takes no part -> reason.
    """

    arms: MethodsByArm
    seconds_per_step: dict[str, float]
    excluded: dict[str, str]


def from_configs(
    request: ComparisonRequest, options: ComparisonOptions, progress: ProgressCallback = ignore_progress
) -> ComparisonSetup:
    """Set up a comparison that trains its candidates. All of them read the cohort from one store, OUT/store.

    Args:
        request: Candidates, data, limit and arms.
        options: Output folder, device and jobs.
        progress: Called after each prepared case.

    Returns:
        The runs of every arm. A candidate that cannot be built is excluded.

    Raises:
        ConfigError: The configs are no fair comparison, or the reference cannot be built.
        CaseError: A case cannot be prepared.
    """
    case_names = [case.name for case in discover_cases(request.data)]
    split, n_folds = plan.resolve_split(request.split, case_names, request.folds, options.out)
    # absolute: another spelling of OUT is the same comparison and must find its cached results
    store_folder = (options.out / STORE_FOLDER).resolve()

    candidates = _load_candidates(request, store_folder, split)
    reference = candidates[0]
    if options.allow_code:
        _trust(candidates, list_config_folders(request.names, request.overrides))
    macs, seconds_per_step, excluded = _profile(candidates, options)
    candidates = [candidate for candidate in candidates if candidate.name in seconds_per_step]

    _prepare_store(request, options, reference, progress)
    steps = plan.steps_by_arm(request.limit, seconds_per_step, macs, reference.name)
    arms = {}
    for arm, n_seeds in request.seeds_by_arm.items():
        grid = RunGrid(options.out / "runs", request.data, n_seeds, n_folds)
        arms[arm] = tuple(plan.build_method(c, steps[arm][c.name], grid) for c in candidates)
    _check_same_store(arms, store_folder)
    return ComparisonSetup(arms, seconds_per_step, excluded)


def from_runs(runs: Path, reference: str | None, cases: Path | None, options: ComparisonOptions) -> ComparisonSetup:
    """Set up a comparison of finished runs.

    Args:
        runs: Folder with run folders at any depth.
        reference: Name of the reference method; None selects one.
        cases: Folder of cases to score on; None takes `data.root` of each run.
        options: Output folder and device.

    Returns:
        One arm with all methods. An unfinished run is excluded.

    Raises:
        InputError: There is no finished run.
        ConfigError: The runs are no fair comparison, or patients of the split are missing.
    """
    arms = existing_runs.group_runs(runs, reference, cases)
    methods = arms[plan.EXISTING_RUNS]
    _check_all_patients(methods[0].runs[0])

    candidates = [method.candidate for method in methods]
    if options.allow_code:
        _trust(candidates)
    seconds_per_step, timing_failures = _time_steps(candidates, options)
    return ComparisonSetup(arms, seconds_per_step, existing_runs.excluded_runs(runs) | timing_failures)


def _load_candidates(request: ComparisonRequest, store_folder: Path, split: Path) -> list[Candidate]:
    """The candidates, with the regression baseline after the reference."""
    # quoted, because paths may hold any character
    paths = (f"data.root={json.dumps(str(store_folder))}", f"data.split={json.dumps(str(split))}")
    overrides = (*request.overrides, *paths, "data.fold=0")
    candidates = load_candidates(request.names, overrides, request.recipe)
    if baseline := regression_baseline(candidates[0]):
        candidates.insert(1, baseline)
    return candidates


def _trust(candidates: Sequence[Candidate], folders: Sequence[Path] = ()) -> None:
    for candidate in candidates:
        registry.trust_class(candidate.config.backbone.target, folders)


def _profile(
    candidates: Sequence[Candidate], options: ComparisonOptions
) -> tuple[dict[str, int], dict[str, float], dict[str, str]]:
    """Multiply-accumulates and seconds per step of each candidate, and the reason why a candidate has none."""
    macs: dict[str, int] = {}
    seconds_per_step: dict[str, float] = {}
    excluded: dict[str, str] = {}
    for candidate in candidates:
        try:
            macs[candidate.name] = costs.training_macs(candidate)
            seconds_per_step[candidate.name] = _time_step(candidate, options)
        except Exception as error:  # an external module may raise anything
            message = str(error) if isinstance(error, DsdiffError) else f"{type(error).__name__}: {error}"
            if candidate is candidates[0]:
                raise ConfigError(f"the reference {candidate.name} cannot be trained: {message}") from error
            excluded[candidate.name] = message
    return macs, seconds_per_step, excluded


def _time_steps(candidates: Sequence[Candidate], options: ComparisonOptions) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds per step of each candidate, and the reason if it cannot be timed: its scores count all the same."""
    seconds_per_step: dict[str, float] = {}
    timing_failures: dict[str, str] = {}
    for candidate in candidates:
        try:
            seconds_per_step[candidate.name] = _time_step(candidate, options)
        except Exception as error:
            timing_failures[f"time per step of {candidate.name}"] = str(error) or type(error).__name__
    return seconds_per_step, timing_failures


def _time_step(candidate: Candidate, options: ComparisonOptions) -> float:
    cache_file = options.out / CALIBRATION_FILE
    return throughput.cached_seconds_per_step(candidate.config, candidate.key, options.device, cache_file)


def _prepare_store(
    request: ComparisonRequest, options: ComparisonOptions, reference: Candidate, progress: ProgressCallback
) -> None:
    """Prepare the cases of the comparison, and remove all other cases from the store."""
    data = reference.config.data
    settings = StoreSettings(data.contrasts, data.source_contrast, data.target, data.planes)
    store_folder = (options.out / STORE_FOLDER).resolve()
    report = build_store.prepare_cases(request.data, store_folder, settings, options.jobs, progress, prune=True)
    for name, reason in report.failed.items():
        raise CaseError(f"{name} of {request.data} cannot be prepared: {reason}")


def _check_same_store(arms: MethodsByArm, store_folder: Path) -> None:
    """Raise `ConfigError` if a run was trained before cases of the store were added, removed or changed."""
    current_hash = open_store(store_folder).hash
    for method in list_methods(arms):
        for run in method.runs:
            run_hash = scoring.training_store_hash(run)
            if run_hash not in (None, current_hash):
                raise ConfigError(
                    f"{run.folder} was trained on other cases: hash of {store_folder} was {run_hash} and is now "
                    f"{current_hash}. Cases were added, removed or changed; compare on the new cases in another "
                    "folder (-o)"
                )


def _check_all_patients(run: Run) -> None:
    """Raise `ConfigError` if patients of any fold are missing: the linear regression baseline is fitted on them."""
    split = run.config.data.split
    names = {name for fold in splits.read(split).folds for name in fold} if split else set[str]()
    missing = sorted(names - {case.name for case in discover_cases(run.cases)})
    if missing:
        raise ConfigError(
            f"{run.cases} lacks {len(missing)} of the {len(names)} patients of {split}, such as "
            f"{', '.join(missing[:3])}; all are needed, because the linear regression baseline is fitted on the other "
            "folds"
        )
