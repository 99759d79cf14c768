"""A comparison's results: what every method scored and cost, its difference to the reference, and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsdiff.backbones import registry
from dsdiff.comparison import json_cache, scoring, throughput
from dsdiff.comparison.plan import Arms, Candidate, Method
from dsdiff.comparison.published import PRINTED, Printed
from dsdiff.comparison.runner import Failed
from dsdiff.comparison.scoring import Scores
from dsdiff.errors import DsdiffError
from dsdiff.evaluation import protocols, results, statistics
from dsdiff.evaluation.statistics import Difference, Runs, Verdict
from dsdiff.io.cases import patient_of
from dsdiff.profiling import cost as profile
from dsdiff.reporting import score_names
from dsdiff.training.loop import CONFIG

SIDE = 256  # of the slice whose forward is timed and whose memory is measured, as in dsdiff backbones
WHAT = "comparison of backbones by dsdiff compare"


@dataclass(frozen=True)
class Judged:
    """A score that verdicts are about: its unit in words, and from which difference on it matters."""

    score: str
    unit: str
    matters: float

    @property
    def title(self) -> str:
        """The score in words."""
        return score_names.describe(self.score).title


@dataclass(frozen=True)
class Cost:
    """Of a candidate, whatever its steps. slice: seconds of one slice's forward.

    macs: of one training slice; inference, training: GiB for one slice, None where it was not run for want of memory.
    """

    parameters: int
    macs: int
    slice: float
    inference: float
    training: float | None


@dataclass(frozen=True)
class Row:
    """A method in one arm. scores: name -> seeds x patients; trained_by: those seeds; volume: seconds of a synthesis,
    median; pace: of a training step. printed: what the original's table says of that backbone.

    steps is None for what was not trained, cost and pace also for what could not be measured.
    """

    name: str
    scores: Mapping[str, Runs]
    steps: int | None = None
    runs: int = 0
    trained_by: tuple[int, ...] = ()
    pace: float | None = None
    cost: Cost | None = None
    volume: float | None = None
    printed: Printed | None = None

    @property
    def hours(self) -> float | None:
        """Training of all its runs, by the pace that was timed."""
        return None if self.pace is None or self.steps is None else self.steps * self.runs * self.pace / 3600

    @property
    def seeds(self) -> int:
        """How many seeds its scores are of."""
        return max((len(runs) for runs in self.scores.values()), default=0)

    def patients(self, score: str) -> int:
        """How many have a score under every seed: those that its mean is of."""
        found = self.scores.get(score)
        return 0 if found is None else int(np.isfinite(found).all(0).sum())

    def interval(self, score: str) -> tuple[float, float, float]:
        """Mean and 95 % interval over patients of a score, averaged over seeds."""
        found = self.scores.get(score)
        return statistics.interval([] if found is None else found.mean(0).tolist())


@dataclass(frozen=True)
class Judgement:
    """A method against the reference on one score."""

    method: str
    judged: Judged
    difference: Difference
    p_holm: float
    verdict: Verdict


@dataclass(frozen=True)
class Arm:
    """One arm's table, the reference first, its judgements, and what is not in it, with the reason."""

    title: str
    rows: tuple[Row, ...]
    judgements: tuple[Judgement, ...]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """All of it, with what a reader needs to make it again."""

    arms: tuple[Arm, ...]
    patients: tuple[str, ...]
    unscored: Mapping[str, str]  # "method, steps, seed, fold: patient" -> why
    facts: Mapping[str, Any]


def judged(protocol: str) -> tuple[Judged, ...]:
    """The scores that verdicts are about, under a protocol."""
    widest = protocols.named(protocol).widest
    return Judged(f"psnr_{widest}", "dB", 0.1), Judged("auc_tumour", "AUC", 0.02)


def measured(candidate: Candidate, run: Path, device: str, file: Path) -> Cost:
    """What a candidate costs, kept under its key for each kind of device."""

    def measure() -> dict[str, Any]:
        multiple = candidate.config.sketch().multiple
        side = -(-SIDE // multiple) * multiple
        counted = profile.count(candidate.config, side, side)
        found = profile.measure(run / CONFIG, side, device, 1, counted)
        macs = trained_macs(candidate)
        return asdict(Cost(counted.parameters, macs, found.seconds, found.inference, found.training))

    return Cost(**json_cache.once(file, throughput.on(candidate.key, device), measure))


def trained_macs(candidate: Candidate) -> int:
    """Multiply-accumulates of one forward of a training slice. Raises what building the backbone raises."""
    height, width = candidate.config.data.crop
    return profile.count(candidate.config, height, width).macs


def costs(arms: Arms, failed: Failed, device: str, file: Path) -> tuple[dict[str, Cost], dict[str, str]]:
    """What every method that has a complete run costs; and of which that could not be measured, and why."""
    found, lacking = dict[str, Cost](), dict[str, str]()
    for method in (method for methods in arms.values() for method in methods):
        name = method.candidate.name
        if name not in found | lacking and not any(run.folder in failed for run in method.runs):
            try:
                found[name] = measured(method.candidate, method.runs[0].folder, device, file)
            except Exception as error:  # as want of memory: its scores stand all the same
                lacking[name] = str(error) or type(error).__name__
    return found, lacking


def gather(
    arms: Arms,
    costs: Mapping[str, Cost],
    paces: Mapping[str, float],
    failed: Failed,
    baselines: Mapping[str, Scores],
    protocol: str,
) -> tuple[list[Arm], list[str], dict[str, str]]:
    """The arms with their judgements, the patients, and who could not be scored.

    Raises `DsdiffError` where the reference of an arm is not complete: there is nothing to compare with.
    """
    found, unscored = [], dict[str, str]()
    patients = sorted(
        {patient_of(case.name) for run in next(iter(arms.values()))[0].runs for case in scoring.held_out(run)}
    )
    for title, methods in arms.items():
        rows, missing = [], dict[str, str]()
        for method in methods:
            reasons = [why for run in method.runs if (why := failed.get(run.folder))]
            if reasons:
                missing[method.candidate.name] = f"{len(reasons)} of {len(method.runs)} runs failed: {reasons[0]}"
                continue
            by_seed, seconds = _by_seed(method, protocol, unscored)
            name = method.candidate.name
            rows.append(_row(method, costs.get(name), paces.get(name), by_seed, seconds, patients))
        if methods[0].candidate.name in missing:
            name = methods[0].candidate.name
            raise DsdiffError(f"the reference {name} is not complete ({missing[name]}); finished runs stay")
        rows += [Row(name, _matrices([scores], patients)) for name, scores in baselines.items()]
        found.append(Arm(title, tuple(rows), tuple(judge(rows, judged(protocol))), missing))
    return found, patients, unscored


def _by_seed(method: Method, protocol: str, unscored: dict[str, str]) -> tuple[dict[int, Scores], list[float]]:
    """Scores of all folds' patients for each seed, and the seconds of every synthesis."""
    by_seed: dict[int, Scores] = {}
    seconds: list[float] = []
    for run in method.runs:
        scored = scoring.read(run, protocol)
        if scored is None:
            raise DsdiffError(f"{run.folder} has no scores by protocol {protocol}")
        by_seed.setdefault(run.config.seed, {}).update(scored.patients)
        seconds += scored.seconds.values()
        where = f"{method.candidate.name}, {method.steps} steps, seed {run.config.seed}, fold {run.fold}"
        unscored |= {f"{where}: {patient}": why for patient, why in scored.failed.items()}
    return dict(sorted(by_seed.items())), seconds


def _row(
    method: Method,
    cost: Cost | None,
    pace: float | None,
    by_seed: dict[int, Scores],
    seconds: list[float],
    patients: Sequence[str],
) -> Row:
    target = registry.name_of(method.candidate.config.backbone.target)
    printed = None if method.candidate.config.process.target == "regression" else PRINTED.get(target)
    volume = float(np.median(seconds)) if seconds else None
    scores = _matrices([*by_seed.values()], patients)
    name, n_runs = method.candidate.name, len(method.runs)
    return Row(name, scores, method.steps, n_runs, tuple(by_seed), pace, cost, volume, printed)


def _matrices(by_seed: Sequence[Scores], patients: Sequence[str]) -> dict[str, Runs]:
    """Every score as seeds x patients, each the mean of a patient's visits, NaN where there is none."""
    by_seed = [results.of_patients(found) for found in by_seed]
    names = dict.fromkeys(name for scores in by_seed for found in scores.values() for name in found)
    nothing: dict[str, float] = {}
    return {
        name: np.array([[s.get(p, nothing).get(name, float("nan")) for p in patients] for s in by_seed])
        for name in names
    }


def judge(rows: Sequence[Row], scores: Sequence[Judged]) -> list[Judgement]:
    """Every row but the first against the first; of each score the rows are a family (Holm)."""
    reference, *others = rows
    found = []
    for one in scores:
        pairs = {}
        for row in others:
            try:
                ours, theirs = row.scores[one.score], reference.scores[one.score]
                alike = row.trained_by == reference.trained_by
                pairs[row.name] = statistics.paired(ours, theirs, len(others), same_seeds=alike)
            except (KeyError, ValueError):
                continue  # under two patients have this score
        adjusted = statistics.holm([difference.p for difference in pairs.values()])
        for row, p in zip((row for row in others if row.name in pairs), adjusted, strict=True):
            costs = _multiples(row, reference)
            told = statistics.verdict(row.name, pairs[row.name], p, one.unit, one.matters, costs)
            found.append(Judgement(row.name, one, pairs[row.name], p, told))
    return found


def _multiples(row: Row, reference: Row) -> dict[str, float]:
    """What a row costs as multiples of the reference; nothing for what has no network."""
    if row.cost is None or reference.cost is None or not row.volume or not reference.volume:
        return {}
    return {"parameters": row.cost.parameters / reference.cost.parameters, "time": row.volume / reference.volume}


def write_json(found: Comparison, file: Path) -> None:
    """Everything, with every patient's scores under every seed; NaN as null."""
    arms = [
        {
            "arm": arm.title,
            "rows": [
                {**asdict(row), "hours": row.hours, "scores": {k: v.tolist() for k, v in row.scores.items()}}
                for row in arm.rows
            ],
            "judgements": [asdict(one) for one in arm.judgements],
            "missing": dict(arm.missing),
        }
        for arm in found.arms
    ]
    facts = {**found.facts, "patients": list(found.patients), "unscored": dict(found.unscored), "arms": arms}
    json_cache.write(results.finite(facts), file)
