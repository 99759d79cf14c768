"""Scores of one run: its held-out patients are synthesized and scored as `dsdiff evaluate` scores them."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dsdiff.comparison.plan import SCORES_FILE, Run
from dsdiff.errors import ConfigError
from dsdiff.evaluation import patient_scores
from dsdiff.evaluation.pairing import SyntheticFiles
from dsdiff.evaluation.patient_scores import ScoredPatient
from dsdiff.inference.model import load_model
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io import splits
from dsdiff.io.cases import Case, discover_named_cases, file_hash, load_volumes
from dsdiff.model import checkpoint
from dsdiff.orientation import to_canonical
from dsdiff.system.device import resolve_device, select_clock
from dsdiff.system.json_cache import write_json
from dsdiff.training import loop
from dsdiff.training.loop import MODEL_FOLDER

TRAINING_LOG = "train.log"
Scores = dict[str, dict[str, float]]  # patient -> score -> value; a patient that could not be scored is missing


@dataclass(frozen=True)
class RunScores:
    """Scores of the held-out patients of a run.

    Attributes:
        patients: Patient -> score -> value.
        synthesis_seconds: Patient -> seconds of the synthesis, by `device.select_clock`.
        failed: Patient that could not be scored -> reason.
    """

    patients: Scores
    synthesis_seconds: dict[str, float]
    failed: dict[str, str]


def held_out_cases(run: Run) -> list[Case]:
    """List the cases that a run was not trained on.

    Args:
        run: A run with a split and a fold.

    Returns:
        The cases of the held-out fold.

    Raises:
        ConfigError: The run has no split, or its folder of cases lacks some of them.
    """
    if run.config.data.split is None:
        raise ConfigError(f"{run.folder} has no data.split; give --split")
    return discover_named_cases(run.cases, splits.read(run.config.data.split).held_out(run.fold))


def train_and_score(run: Run, protocol: str, device: str) -> None:
    """Train a run, or resume its training, and score it. Finished work is not repeated.

    Patients that could not be scored are tried again.

    Args:
        run: The run.
        protocol: Name of the scoring protocol.
        device: auto, cpu, cuda or mps.

    Raises:
        ConfigError: The scores are outdated and the model was deleted, so the run cannot be scored again.
    """
    scores = read_scores(run, protocol)
    has_model = (run.folder / MODEL_FOLDER).is_dir()
    if scores is None and not has_model:
        if (run.folder / SCORES_FILE).is_file():
            raise ConfigError(
                f"{run.folder} was scored with another protocol, version or other files, and its {MODEL_FOLDER}/ does "
                f"not exist; remove its {SCORES_FILE} to train it again"
            )
        _train(run, device)

    if scores is None or (scores.failed and has_model):
        _score_run(run, protocol, device, scores or RunScores({}, {}, {}))


def _train(run: Run, device: str) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    with _log_to_file(run.folder / TRAINING_LOG):
        loop.train(run.config, run.folder, resolve_device(device))


@contextmanager
def _log_to_file(file: Path) -> Iterator[None]:
    """Append all messages of dsdiff to a file: several trainings at a time would mix them up on the terminal."""
    logger = logging.getLogger("dsdiff")
    handler, level = logging.FileHandler(file, encoding="utf-8"), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


def _score_run(run: Run, protocol: str, device: str, scores: RunScores) -> None:
    """Synthesize and score the patients that `scores` lacks, and write all scores."""
    model = load_model(run.folder / MODEL_FOLDER, resolve_device(device))
    cases = held_out_cases(run)
    _check_held_out(run)
    pipeline = Pipeline(model)
    clock = select_clock(model.device)

    failed: dict[str, str] = {}
    for case in cases:
        if case.name in scores.patients:
            continue
        try:
            volumes = load_volumes(case, model.contrasts_to_read(case.files))
            start = clock()
            t1ce = pipeline.synthesize_volumes(volumes).t1ce
            scores.synthesis_seconds[case.name] = round(clock() - start, 3)
            patient = replace(read_copy_baseline(case), image=to_canonical(t1ce).array)
            scores.patients[case.name] = score_patient(patient, protocol)
        except Exception as error:  # one bad case must not stop the others
            failed[case.name] = str(error)

    content = {
        **score_key(cases, protocol),
        "model_hash": model.hash,
        "store_hash": training_store_hash(run),
        "synthesis_seconds": scores.synthesis_seconds,
        "failed": failed,
        "patients": scores_to_json(scores.patients),
    }
    write_json(content, run.folder / SCORES_FILE)


def training_store_hash(run: Run) -> str | None:
    """Read the hash of the store that a run was trained on.

    Args:
        run: A run, finished or not.

    Returns:
        The hash; None if the run is not trained yet, or was trained on a folder of cases.
    """
    store_hash = None
    if (run.folder / MODEL_FOLDER).is_dir():
        store_hash = checkpoint.read_metadata(run.folder / MODEL_FOLDER).store
    elif (run.folder / SCORES_FILE).is_file():
        store_hash = json.loads((run.folder / SCORES_FILE).read_text(encoding="utf-8")).get("store_hash")
    return None if store_hash is None else str(store_hash)


def _check_held_out(run: Run) -> None:
    """Raise `ConfigError` if the model was trained on the fold that it is scored on."""
    assert run.config.data.split is not None
    metadata = checkpoint.read_metadata(run.folder / MODEL_FOLDER)
    metadata.check_fold(run.config.data.split, run.fold, run.folder)


def read_scores(run: Run, protocol: str) -> RunScores | None:
    """Read the scores of a run if they are up to date.

    Args:
        run: The run.
        protocol: Name of the scoring protocol.

    Returns:
        The scores. None if the run has none, or if they come from another model, other files, another protocol or
        another version of the scores. A scored run does not need its model any more.
    """
    try:
        content = json.loads((run.folder / SCORES_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None

    key = score_key(held_out_cases(run), protocol)
    if any(content.get(name) != value for name, value in key.items()):
        return None
    model_folder = run.folder / MODEL_FOLDER
    if model_folder.is_dir() and content["model_hash"] != checkpoint.read_model(model_folder).hash:
        return None
    return RunScores(scores_from_json(content["patients"]), content["synthesis_seconds"], content["failed"])


def score_key(cases: Sequence[Case], protocol: str) -> dict[str, Any]:
    """Compute what scores depend on besides the synthetic images: the files and the definition of the scores.

    Args:
        cases: The scored cases.
        protocol: Name of the scoring protocol.

    Returns:
        Protocol, version of the scores, and a hash of all files.
    """
    hashes = [
        (case.name, contrast, _file_hash(file, file.stat().st_mtime_ns))
        for case in cases
        for contrast, file in sorted(case.files.items())
    ]
    files_hash = hashlib.sha256(repr(hashes).encode()).hexdigest()[:12]
    return {"protocol": protocol, "version": patient_scores.SCORES_VERSION, "files_hash": files_hash}


@cache
def _file_hash(file: Path, modified_ns: int) -> str:
    """Hash of a file's content; a new modification time means that the file is read again."""
    return file_hash(file)


def read_copy_baseline(case: Case) -> ScoredPatient:
    """Read a case for scoring, with a copy of T1 as its synthetic T1ce.

    Args:
        case: A case with T1 and T1ce.

    Returns:
        The patient, ready to be scored.
    """
    return patient_scores.read_patient(SyntheticFiles(case.files["t1"]), case)


def score_patient(patient: ScoredPatient, protocol: str) -> dict[str, float]:
    """Score one patient without fitting the intensity scale to the truth.

    Args:
        patient: The patient with its synthetic T1ce.
        protocol: Name of the scoring protocol.

    Returns:
        Score -> value.
    """
    return patient_scores.score_patient(patient, protocol, fit=False)


def scores_to_json(patients: Scores) -> dict[str, dict[str, float | None]]:
    """Convert scores for JSON, which has no NaN.

    Args:
        patients: Patient -> score -> value.

    Returns:
        The same with None for values that are not finite.
    """
    return _map_scores(patients, lambda value: float(value) if np.isfinite(value) else None)


def scores_from_json(patients: dict[str, dict[str, float | None]]) -> Scores:
    """Undo `scores_to_json`.

    Args:
        patients: Patient -> score -> value or None.

    Returns:
        The same with NaN for None.
    """
    return _map_scores(patients, lambda value: float("nan") if value is None else value)


def _map_scores(patients: dict[str, dict[str, Any]], convert: Callable[[Any], Any]) -> dict[str, dict[str, Any]]:
    converted = {}
    for patient, scores in patients.items():
        converted[patient] = {name: convert(value) for name, value in scores.items()}
    return converted
