"""What a run is worth: its held-out patients synthesised and scored as `dsdiff evaluate` scores them, and baselines."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dsdiff.comparison.json_cache import write
from dsdiff.comparison.plan import SCORES, Run
from dsdiff.data import splits
from dsdiff.data.splits import refuse_other_fold
from dsdiff.errors import ConfigError
from dsdiff.evaluation import patient_scores
from dsdiff.evaluation.pairing import Synthetic
from dsdiff.evaluation.patient_scores import Patient
from dsdiff.evaluation.voxelwise import Image
from dsdiff.inference import model as models
from dsdiff.inference.pipeline import run as synthesise
from dsdiff.io import cases
from dsdiff.io.cases import Case
from dsdiff.model import checkpoint
from dsdiff.preprocessing import normalize
from dsdiff.style.regression import LinearRegression
from dsdiff.system import device as devices
from dsdiff.training import loop
from dsdiff.training.loop import MODEL
from dsdiff.volume import Volume, to_canonical

LOG = "train.log"
COPY, LINEAR = "copy of T1", "linear regression"
Scores = dict[str, dict[str, float]]  # patient -> score -> value; a patient that could not be scored has none


@dataclass(frozen=True)
class Scored:
    """Scores of the patients that a run never saw, seconds of each one's synthesis (see `device.clock`), who failed and
    why."""

    patients: Scores
    seconds: dict[str, float]
    failed: dict[str, str]


def held_out(run: Run) -> list[Case]:
    """The patients that a run never saw. Raises `ConfigError` where its cases lack some."""
    if run.config.data.split is None:
        raise ConfigError(f"{run.folder} names no data.split; give --split")
    return cases.named(run.cases, splits.read(run.config.data.split).held_out(run.fold))


def finish(run: Run, protocol: str, device: str) -> None:
    """Train a run, from where it stopped, and score it: what is done already is left as it is.

    Patients who could not be scored are tried again. Raises `ConfigError` where the model was thrown away and its
    scores are not the ones that are asked for.
    """
    known, trained = read(run, protocol), (run.folder / MODEL).is_dir()
    if known is None and not trained:
        if (run.folder / SCORES).is_file():
            raise ConfigError(
                f"{run.folder} was scored by another protocol or version, or on other files, and its {MODEL}/ is gone; "
                f"remove its {SCORES}, and it is trained again"
            )
        _train(run, device)
    if known is None or (known.failed and trained):
        _score_run(run, protocol, device, known or Scored({}, {}, {}))


def _train(run: Run, device: str) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / LOG).open("a", encoding="utf-8") as log:
        loop.train(run.config, run.folder, devices.pick(device), Console(file=log))


def _score_run(run: Run, protocol: str, device: str, known: Scored) -> None:
    """Synthesise and score the patients who are not known yet."""
    model, everyone = models.load(run.folder / MODEL, devices.pick(device)), held_out(run)
    _refuse_seen(run)
    clock = devices.clock(model.device)
    patients, seconds, failed = known.patients, known.seconds, dict[str, str]()
    for case in (case for case in everyone if case.name not in patients):
        try:
            wanted = cases.load(case, model.wanted(case.files))
            since = clock()
            made = synthesise(wanted, model).t1ce
            seconds[case.name] = round(clock() - since, 3)
            patients[case.name] = _score(replace(_copy(case), image=_array(made)), protocol)
        except Exception as error:  # one odd case must not stop the others
            failed[case.name] = str(error)
    facts = {**_made_by(everyone, protocol), "model": model.hash, "seconds": seconds, "failed": failed}
    facts["store"] = trained_on(run)
    write({**facts, "patients": _plain(patients)}, run.folder / SCORES)


def trained_on(run: Run) -> str | None:
    """Hash of the store that a run was trained on; None where it is not trained yet, or was on a folder of cases."""
    if (run.folder / MODEL).is_dir():
        found = checkpoint.read(run.folder / MODEL).facts.get("store")
    else:
        scores = run.folder / SCORES
        found = json.loads(scores.read_text(encoding="utf-8")).get("store") if scores.is_file() else None
    return None if found is None else str(found)


def _refuse_seen(run: Run) -> None:
    """Raise `ConfigError` where the model was not trained without the fold that it is to be scored on."""
    assert run.config.data.split is not None
    refuse_other_fold(checkpoint.read(run.folder / MODEL).facts, run.config.data.split, run.fold, run.folder)


def read(run: Run, protocol: str) -> Scored | None:
    """The scores of a run by this protocol; None where there are none, or where they were made otherwise: by another
    model than the one that stands there, on other files, by another version of the scores. A model that was thrown away
    once it was scored is not missed."""
    try:
        found = json.loads((run.folder / SCORES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    model, wanted = run.folder / MODEL, _made_by(held_out(run), protocol)
    if any(found.get(key) != value for key, value in wanted.items()):
        return None
    if model.is_dir() and found["model"] != checkpoint.read(model).hash:
        return None
    return Scored(_numbers(found["patients"]), found["seconds"], found["failed"])


def learn(case: Case, contrasts: Sequence[str], start: str = "t1") -> LinearRegression:
    """What one patient teaches a linear regression of its T1ce on its other contrasts."""
    prepared = normalize.apply(cases.load(case, (*contrasts, "t1ce")), start)
    regression = LinearRegression(len(contrasts))
    regression.add([prepared.images[c] for c in contrasts], prepared.images["t1ce"], prepared.brain)
    return regression


def baselines(runs: Sequence[Run], protocol: str, file: Path) -> None:
    """Score what needs no network on the held-out patients of these runs, one of each fold, and write it down.

    The linear regression of a fold is fitted on the patients of the other folds, as the networks are. Patients who
    cannot be scored are named there. Raises `ValueError` where none of the other folds can be read.
    """
    data = runs[0].config.data
    assert data.split is not None
    split, found = splits.read(data.split), {case.name: case for case in cases.discover(runs[0].cases)}
    learnt: dict[str, LinearRegression] = {}
    failed: dict[str, str] = {}
    for name in (name for fold in split.folds for name in fold):
        try:
            learnt[name] = learn(found[name], data.contrasts, data.source_contrast)
        except Exception as error:  # one odd case must not stop the others
            failed[name] = str(error)
    scores: dict[str, Scores] = {COPY: {}, LINEAR: {}}
    for run in runs:
        seen = [part for name, part in learnt.items() if name not in split.held_out(run.fold)]
        fitted = LinearRegression.merged(seen)
        for case in (case for case in held_out(run) if case.name in learnt):
            try:
                copy = _copy(case)
                linear = replace(copy, image=_linear(case, fitted, data.contrasts, data.source_contrast))
                made = {COPY: _score(copy, protocol), LINEAR: _score(linear, protocol)}
            except Exception as error:
                failed[case.name] = str(error)
                continue
            for name, found_here in made.items():
                scores[name][case.name] = found_here
    told = {name: _plain(found_here) for name, found_here in scores.items()}
    write({"of": _asked(runs, protocol), "scores": told, "failed": failed}, file)


def read_baselines(runs: Sequence[Run], protocol: str, file: Path) -> dict[str, Scores] | None:
    """What `baselines` wrote of these very runs; None where it is something else or nothing."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if found.get("of") != _asked(runs, protocol):
        return None
    return {name: _numbers(scores) for name, scores in found["scores"].items()}


def _asked(runs: Sequence[Run], protocol: str) -> dict[str, Any]:
    data = runs[0].config.data
    assert data.split is not None
    return {
        **_made_by([case for run in runs for case in held_out(run)], protocol),
        "split": splits.read(data.split).hash,
        "folds": [run.fold for run in runs],
        "contrasts": [*data.contrasts],
    }


def _made_by(scored: Sequence[Case], protocol: str) -> dict[str, Any]:
    """What scores depend on, whatever made the images: other files or other definitions make other scores."""
    hashes = [
        (case.name, contrast, _hash(file, file.stat().st_mtime_ns))
        for case in scored
        for contrast, file in sorted(case.files.items())
    ]
    told = hashlib.sha256(repr(hashes).encode()).hexdigest()[:12]
    return {"protocol": protocol, "version": patient_scores.VERSION, "files": told}


@cache
def _hash(file: Path, changed: int) -> str:
    """Of a file's content; the time of its last change says when it has to be read again."""
    return cases.file_hash(file)


def _copy(case: Case) -> Patient:
    """A patient whose synthetic T1ce is the T1."""
    return patient_scores.read(Synthetic(case.files["t1"]), case)


def _linear(case: Case, fitted: LinearRegression, contrasts: Sequence[str], start: str) -> Image:
    prepared = normalize.apply(cases.load(case, tuple(contrasts)), start)
    made = fitted.predict([prepared.images[c] for c in contrasts], prepared.brain).astype(np.float32)
    return _array(normalize.restore(prepared, made, start))


def _array(volume: Volume) -> Image:
    """A volume's array on RAS+ axes."""
    return to_canonical(volume).array


def _score(made: Patient, protocol: str) -> dict[str, float]:
    return patient_scores.score(made, protocol, fit=False)


def _plain(patients: Scores) -> dict[str, dict[str, float | None]]:
    """Scores for JSON: None where there is no number."""
    return _each(patients, lambda value: float(value) if np.isfinite(value) else None)


def _numbers(patients: dict[str, dict[str, float | None]]) -> Scores:
    return _each(patients, lambda value: float("nan") if value is None else value)


def _each(patients: dict[str, dict[str, Any]], change: Callable[[Any], Any]) -> dict[str, dict[str, Any]]:
    return {case: {name: change(value) for name, value in found.items()} for case, found in patients.items()}
