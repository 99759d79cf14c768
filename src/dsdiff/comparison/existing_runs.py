"""Finished runs below a folder, grouped into the methods of one comparison."""

import os
from collections.abc import Sequence
from pathlib import Path

from dsdiff.backbones import registry
from dsdiff.comparison.candidates import (
    Candidate,
    check_comparable,
    regression_baseline,
    selection_leakage,
    shared_settings,
)
from dsdiff.comparison.plan import EXISTING_RUNS, SCORES_FILE, Method, MethodsByArm, Run
from dsdiff.config.run import RunConfig, load_config
from dsdiff.data import store
from dsdiff.errors import ConfigError, InputError
from dsdiff.model import checkpoint
from dsdiff.training.loop import CONFIG_FILE, MODEL_FOLDER


def group_runs(root: Path, reference: str | None, cases: Path | None = None) -> MethodsByArm:
    """Group the finished runs below a folder by config; steps, seed and fold do not count.

    Args:
        root: A folder with run folders at any depth.
        reference: Name of the reference method. The default is a method with the default backbone, else the first one
            that is no one-step regression.
        cases: Folder of cases to score on; the default is `data.root` of each run.

    Returns:
        One arm, the reference first.

    Raises:
        InputError: The folder holds no finished run.
        ConfigError: The runs are no fair comparison, or no method is called `reference`.
    """
    folders = _finished_runs(root)
    runs_by_config: dict[str, list[Run]] = {}
    for folder in folders:
        config = load_config(folder / CONFIG_FILE)
        run = Run(folder, config, cases or _cases_folder(config, folder))
        key = repr((config.training.steps, shared_settings(config)))
        runs_by_config.setdefault(key, []).append(run)

    _check_process_count(root, folders)
    methods = [_build_method(runs, root, set(folders)) for runs in runs_by_config.values()]
    first = _select_reference(methods, reference, root)
    ordered = (first, *(method for method in methods if method is not first))
    _check_methods_comparable(ordered)
    return {EXISTING_RUNS: ordered}


def excluded_runs(root: Path) -> dict[str, str]:
    """List the runs below a folder that cannot be compared.

    Args:
        root: A folder with run folders at any depth.

    Returns:
        Path of the run below `root` -> reason.
    """
    reasons = {}
    for folder in _run_folders(root):
        name = str(folder.relative_to(root))
        if not _is_finished(folder):
            reasons[name] = f"not finished: it has neither {MODEL_FOLDER}/ nor {SCORES_FILE}"
            continue
        try:
            if leakage := selection_leakage(load_config(folder / CONFIG_FILE)):
                reasons[name] = leakage
        except ConfigError as error:  # such as a backbone that is not installed on this machine
            reasons[name] = str(error)
    return reasons


def _finished_runs(root: Path) -> list[Path]:
    excluded = excluded_runs(root)
    folders = [folder for folder in _run_folders(root) if str(folder.relative_to(root)) not in excluded]
    if folders:
        return folders

    message = (
        f"{root} holds no finished run; a finished run is a folder of dsdiff train with {CONFIG_FILE} and "
        f"{MODEL_FOLDER}/ or {SCORES_FILE}"
    )
    if excluded:
        name, reason = next(iter(excluded.items()))
        message += f"; {name}: {reason}"
    raise InputError(message)


def _run_folders(root: Path) -> list[Path]:
    """All run folders, finished or not. The folder of a model has a config too, but is no run."""
    folders = (path.parent for path in root.rglob(CONFIG_FILE))
    return sorted(folder for folder in folders if not (folder / checkpoint.WEIGHTS_FILE).exists())


def _is_finished(run_folder: Path) -> bool:
    return (run_folder / MODEL_FOLDER).is_dir() or (run_folder / SCORES_FILE).is_file()


def _cases_folder(config: RunConfig, run_folder: Path) -> Path:
    """The folder of cases that a run was trained on; raises `ConfigError` if the run was trained on a store."""
    if config.data.root is None or store.is_store(config.data.root):
        raise ConfigError(f"{run_folder} was not trained on a folder of cases; give --data, the folder to score it on")
    return config.data.root


def _check_process_count(root: Path, folders: Sequence[Path]) -> None:
    """A step of N processes sees N times the slices, so all runs must have the same number of processes."""
    counts = {checkpoint.read_metadata(folder / MODEL_FOLDER).processes for folder in folders}
    if len(counts) > 1:
        numbers = " and ".join(map(str, sorted(counts)))
        raise ConfigError(
            f"the runs of {root} were trained by {numbers} processes, which changes the slices per step: give a folder "
            "of runs with one number of processes"
        )


def _select_reference(methods: Sequence[Method], reference: str | None, root: Path) -> Method:
    methods_by_name = {method.candidate.name: method for method in methods}
    if reference is not None:
        if reference not in methods_by_name:
            raise ConfigError(f"--reference {reference} is not among the runs of {root}: {', '.join(methods_by_name)}")
        return methods_by_name[reference]

    # one-step regression is a baseline, and a reference only if there is nothing else
    diffusion = [m for m in methods if m.candidate.config.process.target != "regression"] or methods
    for method in diffusion:
        if registry.registered_name(method.candidate.config.backbone.target) == registry.DEFAULT.target:
            return method
    return diffusion[0]


def _check_methods_comparable(methods: Sequence[Method]) -> None:
    """Raise `ConfigError` unless each method compares with the first one, or with its one-step regression."""
    candidates = [method.candidate for method in methods]
    baseline = regression_baseline(methods[0].candidate)
    if baseline is None:
        check_comparable(candidates)
    else:
        process = baseline.config.process
        check_comparable([candidate for candidate in candidates if candidate.config.process != process])
        check_comparable([baseline, *(candidate for candidate in candidates if candidate.config.process == process)])
    for method in methods:
        _check_same_folds(methods[0], method)


def _check_same_folds(reference: Method, method: Method) -> None:
    """Raise `ConfigError` unless a method has one run for each fold of the reference under each of its seeds."""
    folds = sorted({run.fold for run in reference.runs})
    for seed in {run.config.seed for run in method.runs}:
        method_folds = sorted(run.fold for run in method.runs if run.config.seed == seed)
        if method_folds != folds:
            raise ConfigError(
                f"{method.candidate.name} has runs of folds {method_folds} under seed {seed}; "
                f"{reference.candidate.name} is scored on folds {folds}. All methods must be scored on the same "
                "patients, once for each seed"
            )


def _build_method(runs: Sequence[Run], root: Path, all_folders: set[Path]) -> Method:
    """Build a method, named after the folder that holds its runs and no other runs, or after its first run."""
    folders = [run.folder for run in runs]
    parent = Path(os.path.commonpath(folders))
    is_shared = any(parent in folder.parents for folder in all_folders - set(folders))
    named_folder = folders[0] if is_shared or parent == root else parent
    candidate = Candidate(str(named_folder.relative_to(root)), runs[0].config)
    return Method(candidate, runs[0].config.training.steps, tuple(runs))
