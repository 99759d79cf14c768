"""Results of a comparison: scores and costs of every method, and its difference to the reference."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsdiff.comparison_report.published import PublishedResult
from dsdiff.evaluation import protocols, statistics
from dsdiff.evaluation.results import replace_nan
from dsdiff.evaluation.statistics import CandidateScores, PairedDifference, Verdict
from dsdiff.reporting import score_names
from dsdiff.system import json_cache

FILE_KIND = "comparison of backbones by dsdiff compare"


@dataclass(frozen=True)
class PrimaryMetric:
    """A score on which methods are compared.

    Attributes:
        score: Name of the score.
        unit: Its unit.
        meaningful_difference: Smallest difference that matters, in `unit`.
    """

    score: str
    unit: str
    meaningful_difference: float

    @property
    def title(self) -> str:
        """Title of the score.

        Returns:
            The score in words.
        """
        return score_names.describe_score(self.score).title


@dataclass(frozen=True)
class ModelCost:
    """Cost of a candidate; it does not depend on the number of training steps.

    Attributes:
        parameters: Number of trained parameters.
        macs: Multiply-accumulates of one forward pass of one training slice.
        seconds_per_slice: Seconds of one forward pass of one slice of about 256 x 256.
        inference_gib: Memory of that forward pass, in GiB.
        training_gib: Memory of a training step of that slice, in GiB; None if it does not fit.
    """

    parameters: int
    macs: int
    seconds_per_slice: float
    inference_gib: float
    training_gib: float | None


@dataclass(frozen=True)
class MethodResult:
    """Scores and costs of one method in one arm. A baseline has no steps, runs or costs.

    Attributes:
        name: Name of the candidate or baseline.
        scores: Score -> values, seeds x patients.
        n_steps: Training steps of each run.
        n_runs: Number of runs over seeds and folds.
        seeds: The training seeds, in the order of the rows of `scores`.
        seconds_per_step: Seconds of a training step; None if it could not be measured.
        cost: Cost of the network; None if it could not be measured.
        seconds_per_volume: Median seconds of the synthesis of one volume.
        published: The row of the original paper for this backbone.
    """

    name: str
    scores: Mapping[str, CandidateScores]
    n_steps: int | None = None
    n_runs: int = 0
    seeds: tuple[int, ...] = ()
    seconds_per_step: float | None = None
    cost: ModelCost | None = None
    seconds_per_volume: float | None = None
    published: PublishedResult | None = None

    @property
    def training_hours(self) -> float | None:
        """Training time of all runs.

        Returns:
            Hours, computed from the measured time of a step; None if it was not measured.
        """
        if self.seconds_per_step is None or self.n_steps is None:
            return None
        return self.n_steps * self.n_runs * self.seconds_per_step / 3600

    @property
    def n_seeds(self) -> int:
        """Number of seeds with scores.

        Returns:
            The number; 1 for a baseline, 0 without scores.
        """
        return max((len(values) for values in self.scores.values()), default=0)

    def n_patients(self, score: str) -> int:
        """Count the patients that have a score under every seed. Means are over these patients.

        Args:
            score: Name of the score.

        Returns:
            The number of patients.
        """
        values = self.scores.get(score)
        return 0 if values is None else int(np.isfinite(values).all(0).sum())

    def interval(self, score: str) -> tuple[float, float, float]:
        """Compute the mean of a score over patients, averaged over seeds.

        Args:
            score: Name of the score.

        Returns:
            Mean, lower and upper bound of its 95 % interval.
        """
        values = self.scores.get(score)
        return statistics.confidence_interval([] if values is None else values.mean(0).tolist())


@dataclass(frozen=True)
class PairwiseResult:
    """A method against the reference on one metric.

    Attributes:
        method: Name of the method.
        metric: The metric.
        difference: Method minus reference.
        p_holm: Wilcoxon's p after Holm's correction over all methods of the arm.
        verdict: The verdict in words.
    """

    method: str
    metric: PrimaryMetric
    difference: PairedDifference
    p_holm: float
    verdict: Verdict


@dataclass(frozen=True)
class ArmResult:
    """The results of one arm.

    Attributes:
        title: Title of the arm.
        methods: The methods with all runs finished, the reference first, the baselines last.
        pairwise: Each method against the reference on each metric.
        incomplete: Method with failed runs -> reason.
    """

    title: str
    methods: tuple[MethodResult, ...]
    pairwise: tuple[PairwiseResult, ...]
    incomplete: Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """The whole comparison, with all that is needed to reproduce it.

    Attributes:
        arms: The results of each arm.
        patients: The scored patients, in the order of the columns of all scores.
        unscored: "method, steps, seed, fold: patient" that could not be scored -> reason.
        metadata: Command, date, protocol, split, seeds, excluded candidates and versions.
    """

    arms: tuple[ArmResult, ...]
    patients: tuple[str, ...]
    unscored: Mapping[str, str]
    metadata: Mapping[str, Any]


def primary_metrics(protocol: str) -> tuple[PrimaryMetric, ...]:
    """List the metrics on which methods are compared.

    Args:
        protocol: Name of the scoring protocol.

    Returns:
        PSNR in the widest region of the protocol, and the AUC of enhancement in the tumour.
    """
    region = protocols.get_protocol(protocol).widest_region
    return PrimaryMetric(f"psnr_{region}", "dB", 0.1), PrimaryMetric("auc_tumour", "AUC", 0.02)


def write_comparison(comparison: Comparison, file: Path) -> None:
    """Write everything as JSON, with the scores of every patient under every seed; NaN becomes null.

    Args:
        comparison: The comparison.
        file: Path of the JSON file.
    """
    content = {
        **comparison.metadata,
        "patients": list(comparison.patients),
        "unscored": dict(comparison.unscored),
        "arms": [_arm_to_json(arm) for arm in comparison.arms],
    }
    json_cache.write_json(replace_nan(content), file)


def _arm_to_json(arm: ArmResult) -> dict[str, Any]:
    methods = []
    for method in arm.methods:
        scores = {name: values.tolist() for name, values in method.scores.items()}
        methods.append({**asdict(method), "training_hours": method.training_hours, "scores": scores})
    return {
        "title": arm.title,
        "methods": methods,
        "pairwise": [asdict(result) for result in arm.pairwise],
        "incomplete": dict(arm.incomplete),
    }
