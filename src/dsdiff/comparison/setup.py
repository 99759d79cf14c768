"""From what was asked for to the runs of every arm: the cohort prepared, candidates built and timed, a split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dsdiff.backbones import registry
from dsdiff.comparison import plan, results, scoring, throughput
from dsdiff.comparison.plan import Arms, Candidate, Run
from dsdiff.data import build_store as cohorts
from dsdiff.data import splits
from dsdiff.data.store import Settings, open_store
from dsdiff.errors import CaseError, ConfigError, DsdiffError
from dsdiff.io.cases import discover

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
    names = [case.name for case in discover(asked.data)]
    split, folds = plan.split(asked.split, names, asked.folds, out)
    store = (out / STORE).resolve()  # OUT by another way is the same comparison: nothing is timed or trained anew
    places = (f"data.root={json.dumps(str(store))}", f"data.split={json.dumps(str(split))}")  # whatever they hold
    placed = (*asked.overrides, *places, "data.fold=0")
    found = plan.candidates(asked.names, placed, asked.recipe)
    reference = found[0]
    if baseline := plan.regression(reference):
        found.insert(1, baseline)
    _allow(found, allow_code)
    macs: dict[str, int] = {}
    paces: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for candidate in found:
        try:
            macs[candidate.name] = results.trained_macs(candidate)
            paces[candidate.name] = throughput.calibrated(candidate.config, candidate.key, device, out / PACES)
        except Exception as error:  # whatever stands in somebody's module
            said = str(error) if isinstance(error, DsdiffError) else f"{type(error).__name__}: {error}"
            if candidate is reference:
                raise ConfigError(f"the reference {candidate.name} cannot be trained: {said}") from error
            left_out[candidate.name] = said
    built = [candidate for candidate in found if candidate.name in paces]
    _store(asked, reference, store, console)
    steps = plan.steps(asked.limit, paces, macs, reference.name)
    root = out / "runs"
    arms = {
        arm: tuple(plan.method(one, steps[arm][one.name], seeds, folds, root, asked.data) for one in built)
        for arm, seeds in asked.arms.items()
    }
    _refuse_other_cohorts(arms, store)
    return Prepared(arms, paces, left_out)


def _store(asked: Asked, reference: Candidate, place: Path, console: Console) -> None:
    """Prepare the cases of the comparison, and no others."""
    data = reference.config.data
    settings = Settings(data.contrasts, data.source_contrast, data.target, data.planes)
    report = cohorts.prepare(asked.data, place, settings, asked.jobs, console, prune=True)
    for name, reason in report.failed.items():
        raise CaseError(f"{name} of {asked.data} cannot be prepared: {reason}")


def _refuse_other_cohorts(arms: Arms, store: Path) -> None:
    """Raise `ConfigError` where a run was trained on the store as it was before cases were added or changed."""
    now = open_store(store).hash
    for run in (run for methods in arms.values() for method in methods for run in method.runs):
        if (then := scoring.trained_on(run)) not in (None, now):
            raise ConfigError(
                f"{run.folder} was trained on other cases ({store} was {then}, and is {now} now): cases were added, "
                "taken out or changed since. Compare on those of today in another folder (-o)"
            )


def finished(
    runs: Path, reference: str | None, cases: Path | None, out: Path, device: str, allow_code: bool
) -> Prepared:
    """The runs that exist below a folder. Raises what `plan.existing` raises."""
    arms = plan.existing(runs, reference, cases)
    _refuse_lacking(next(iter(arms.values()))[0].runs[0])
    found = [method.candidate for method in arms[plan.EXISTING]]
    _allow(found, allow_code)
    paces, untimed = _paces(found, out, device)
    return Prepared(arms, paces, plan.left_out(runs) | untimed)


def _refuse_lacking(run: Run) -> None:
    """Raise `ConfigError` where patients of any fold are lacking: a baseline, linear regression, is fitted on them."""
    split = run.config.data.split
    names = {name for fold in splits.read(split).folds for name in fold} if split else set[str]()
    if lost := sorted(names - {case.name for case in discover(run.cases)}):
        raise ConfigError(
            f"{run.cases} lacks {len(lost)} of the {len(names)} patients of {split}, as {', '.join(lost[:3])}; all are "
            "needed, since a baseline (linear regression) is fitted on the other folds"
        )


def _allow(candidates: Sequence[Candidate], allow_code: bool) -> None:
    for candidate in candidates if allow_code else ():
        registry.allow(candidate.config.backbone.target)


def _paces(candidates: Sequence[Candidate], out: Path, device: str) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of a training step by candidate, and whose could not be timed, and why: its scores stand all the same."""
    paces, lacking = dict[str, float](), dict[str, str]()
    for one in candidates:
        try:
            paces[one.name] = throughput.calibrated(one.config, one.key, device, out / PACES)
        except Exception as error:
            lacking[f"the pace of {one.name}"] = str(error) or type(error).__name__
    return paces, lacking
