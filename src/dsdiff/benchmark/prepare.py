"""From what was asked for to the runs of every arm: the cohort prepared, candidates built and timed, a split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dsdiff.backbones import registry
from dsdiff.benchmark import budget, compare, plan
from dsdiff.benchmark.plan import Arms, Candidate
from dsdiff.data import cases
from dsdiff.data import prepare as cohorts
from dsdiff.data.store import Settings
from dsdiff.errors import CaseError, ConfigError

PACES, STORE = "calibration.json", "store"


@dataclass(frozen=True)
class Asked:
    """A comparison to train. data: a folder of cases; limit: steps (int) or seconds (float) of one training; arms:
    the seeds of each that is wanted, by title; jobs: trainings, and cases prepared, at a time."""

    names: Sequence[str]
    overrides: Sequence[str]
    recipe: str
    data: Path
    split: Path | None
    folds: int | None
    limit: int | float
    arms: Mapping[str, int]
    jobs: int


@dataclass(frozen=True)
class Prepared:
    """Runs by arm, seconds of a training step by candidate; candidates that cannot be built and runs that are not
    finished, and why."""

    arms: Arms
    paces: dict[str, float]
    left_out: dict[str, str]


def fresh(asked: Asked, out: Path, device: str, allow_code: bool, console: Console) -> Prepared:
    """Every training reads the cohort from one store, OUT/store, prepared here.

    Raises `ConfigError` for configs that are no fair comparison, and for a reference that cannot be built; `CaseError`
    for a case that cannot be prepared.
    """
    names = [case.name for case in cases.discover(asked.data)]
    split, folds = plan.split(asked.split, names, asked.folds, out)
    store = (out / STORE).resolve()  # OUT by another way is the same comparison: nothing is timed or trained anew
    places = (f"data.root={json.dumps(str(store))}", f"data.split={json.dumps(str(split))}")  # whatever they hold
    placed = (*asked.overrides, *places, "data.fold=0")
    found = plan.candidates(asked.names, placed, asked.recipe)
    reference = found[0]
    if baseline := plan.regression(reference):
        found.insert(1, baseline)
    _allow(found, allow_code)
    macs, left_out = {}, {}
    for candidate in found:
        try:
            macs[candidate.name] = compare.trained_macs(candidate)
        except ConfigError as error:
            if candidate is reference:
                raise
            left_out[candidate.name] = str(error)
    built = [candidate for candidate in found if candidate.name in macs]
    _store(asked, reference, store, console)
    paces = _paces(built, out, device)
    steps = plan.steps(asked.limit, paces, macs, reference.name)
    root = out / "runs"
    arms = {
        arm: tuple(plan.method(one, steps[arm][one.name], seeds, folds, root, asked.data) for one in built)
        for arm, seeds in asked.arms.items()
    }
    return Prepared(arms, paces, left_out)


def _store(asked: Asked, reference: Candidate, place: Path, console: Console) -> None:
    data = reference.config.data
    report = cohorts.prepare(asked.data, place, Settings(data.contrasts, data.start, data.target), asked.jobs, console)
    for name, reason in report.failed.items():
        raise CaseError(f"{name} of {asked.data} cannot be prepared: {reason}")


def finished(
    runs: Path, reference: str | None, cases: Path | None, out: Path, device: str, allow_code: bool
) -> Prepared:
    """The runs that exist below a folder. Raises what `plan.existing` raises."""
    arms = plan.existing(runs, reference, cases)
    found = [method.candidate for method in arms[plan.EXISTING]]
    _allow(found, allow_code)
    return Prepared(arms, _paces(found, out, device), plan.unfinished(runs))


def _allow(candidates: Sequence[Candidate], allow_code: bool) -> None:
    for candidate in candidates if allow_code else ():
        registry.allow(candidate.config.backbone.target)


def _paces(candidates: Sequence[Candidate], out: Path, device: str) -> dict[str, float]:
    return {one.name: budget.calibrated(one.config, one.key, device, out / PACES) for one in candidates}
