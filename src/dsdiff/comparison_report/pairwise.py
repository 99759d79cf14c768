"""Every method against the reference, patient by patient."""

from collections.abc import Sequence

from dsdiff.comparison_report.results import MethodResult, PairwiseResult, PrimaryMetric
from dsdiff.evaluation import statistics
from dsdiff.evaluation.statistics import PairedDifference


def compare_to_reference(methods: Sequence[MethodResult], metrics: Sequence[PrimaryMetric]) -> list[PairwiseResult]:
    """Compare all methods with the first one. The methods are one family for Holm's correction on each metric.

    Args:
        methods: The methods of one arm, the reference first.
        metrics: The metrics to compare.

    Returns:
        One result for each method and metric with at least two scored patients.
    """
    reference, *candidates = methods
    results = []
    for metric in metrics:
        differences = _paired_differences(reference, candidates, metric)
        p_values = statistics.holm_correction([difference.p for difference in differences.values()])
        compared = [method for method in candidates if method.name in differences]
        for method, p_holm in zip(compared, p_values, strict=True):
            difference = differences[method.name]
            verdict = statistics.make_verdict(
                method.name,
                difference,
                p_holm,
                metric.unit,
                metric.meaningful_difference,
                _cost_ratios(method, reference),
            )
            results.append(PairwiseResult(method.name, metric, difference, p_holm, verdict))
    return results


def _paired_differences(
    reference: MethodResult, candidates: Sequence[MethodResult], metric: PrimaryMetric
) -> dict[str, PairedDifference]:
    differences = {}
    for method in candidates:
        try:
            differences[method.name] = statistics.compare_paired(
                method.scores[metric.score],
                reference.scores[metric.score],
                len(candidates),
                same_seeds=method.seeds == reference.seeds,
            )
        except (KeyError, ValueError):
            continue  # fewer than two patients have this score
    return differences


def _cost_ratios(method: MethodResult, reference: MethodResult) -> dict[str, float]:
    """The cost of a method as multiples of the reference; empty if one of them has no network."""
    if method.cost is None or reference.cost is None:
        return {}
    if not method.seconds_per_volume or not reference.seconds_per_volume:
        return {}
    return {
        "parameters": method.cost.parameters / reference.cost.parameters,
        "time": method.seconds_per_volume / reference.seconds_per_volume,
    }
