"""A comparison as tables of text cells, for the Markdown file and for the HTML report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsdiff.comparison_report.published import PublishedResult
from dsdiff.comparison_report.results import ArmResult, Comparison, MethodResult, PairwiseResult
from dsdiff.evaluation.protocols import get_protocol

COST_COLUMNS = (
    "parameters",
    "GMAC",
    "steps",
    "training, CPU h",
    "s per slice",
    "s per volume",
    "GiB inference",
    "GiB training",
)
PAIRWISE_COLUMNS = (
    "against the reference",
    "patients",
    "difference",
    "95 % interval",
    "p (Wilcoxon)",
    "p (Holm)",
    "detectable",
    "verdict",
)


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        name: Title of the row.
        cells: The cells after the title.
        is_published: The row comes from the original paper.
    """

    name: str
    cells: list[str]
    is_published: bool = False


def score_columns(protocol: str) -> dict[str, tuple[str, int]]:
    """List the scores of the table.

    Args:
        protocol: Name of the scoring protocol.

    Returns:
        Score -> title and number of decimals.
    """
    region = get_protocol(protocol).widest_region
    return {
        f"psnr_{region}": ("PSNR, dB", 2),
        f"nrmse_{region}": ("NRMSE", 4),
        f"ms_ssim_{region}": ("MS-SSIM", 4),
        "auc_tumour": ("AUC in tumour", 3),
        "enhancement_recovery": ("recovery", 2),
    }


def column_titles(protocol: str) -> list[str]:
    """List the titles of the columns after the name.

    Args:
        protocol: Name of the scoring protocol.

    Returns:
        The titles, costs first.
    """
    return [*COST_COLUMNS, *(f"{title} (patients)" for title, _ in score_columns(protocol).values())]


def method_rows(arm: ArmResult, protocol: str) -> list[TableRow]:
    """Build one row for each method, followed by the published row of its backbone if there is one.

    Args:
        arm: The results of one arm.
        protocol: Name of the scoring protocol.

    Returns:
        The rows, the reference first.
    """
    rows = []
    for method in arm.methods:
        rows.append(TableRow(method.name, [*_cost_cells(method), *_score_cells(method, protocol)]))
        if method.published:
            rows.append(TableRow("published by the original", _published_cells(method.published), is_published=True))
    return rows


def _cost_cells(method: MethodResult) -> list[str]:
    steps = "-" if method.n_steps is None else f"{method.n_steps}"
    hours = "-" if method.training_hours is None else f"{method.training_hours:.2f}"
    volume_seconds = "-" if method.seconds_per_volume is None else f"{method.seconds_per_volume:.1f}"
    cost = method.cost
    if cost is None:
        return ["-", "-", steps, hours, "-", volume_seconds, "-", "-"]

    return [
        f"{cost.parameters / 1e6:.2f} M",
        f"{cost.macs / 1e9:.2f}",
        steps,
        hours,
        f"{cost.seconds_per_slice:.3f}",
        volume_seconds,
        f"{cost.inference_gib:.2f}",
        "not run" if cost.training_gib is None else f"{cost.training_gib:.2f}",
    ]


def _score_cells(method: MethodResult, protocol: str) -> list[str]:
    cells = []
    for score, (_, decimals) in score_columns(protocol).items():
        mean, low, high = method.interval(score)
        interval = "" if np.isnan(low) else f" [{low:.{decimals}f}, {high:.{decimals}f}]"  # one patient has none
        cells.append("-" if np.isnan(mean) else f"{mean:.{decimals}f}{interval} ({method.n_patients(score)})")
    return cells


def _published_cells(published: PublishedResult) -> list[str]:
    return [
        f"{published.parameters_millions} M",
        "",
        "",
        "",
        "",
        f"{published.seconds_per_sample} per sample",
        f"{published.memory_gb} GB",
        "",
        f"{published.psnr:.2f}",
        f"{published.nrmse:.4f}",
        f"{published.ms_ssim:.4f}",
        "",
        "",
    ]


def pairwise_rows(results: Sequence[PairwiseResult]) -> list[TableRow]:
    """Build one row for each method and metric against the reference.

    Args:
        results: Pairwise results of one arm.

    Returns:
        Rows with patients, difference, interval, p-values, smallest detectable difference and verdict.
    """
    rows = []
    for result in results:
        difference = result.difference
        cells = [
            f"{difference.patients}",
            f"{difference.mean:+.3f} {result.metric.unit}",
            f"{difference.low:+.3f} to {difference.high:+.3f}",
            f"{difference.p:.2g}",
            f"{result.p_holm:.2g}",
            "nothing" if difference.smallest_p >= 0.05 else f"{difference.detectable:.3f}",
            result.verdict.category,
        ]
        rows.append(TableRow(result.method, cells))
    return rows


def reading_notes(comparison: Comparison) -> list[str]:
    """Explain the tables: protocol, patients, seeds, units, and what the tables lack.

    Args:
        comparison: The comparison.

    Returns:
        One paragraph for each note.
    """
    metadata = comparison.metadata
    protocol = metadata["protocol"]
    notes = [
        f"{len(comparison.patients)} patients, each scored by models that were not trained on them (split "
        f"{metadata['split']}, folds: {metadata['folds']}), seeds: {_seed_counts(comparison.arms)}; mean and 95 % "
        "interval over patients.",
        f"Protocol {protocol}: {get_protocol(protocol).description}. The published results are for BraSyn with the "
        "background, one fold and one seed: they do not compare with the scores here.",
        "GMAC: 10^9 multiply-accumulates of one forward pass of one training slice. Training: steps times seconds per "
        "step, measured once, over all runs. Slice: 256 x 256 or the next size that the network accepts, one thread. "
        "Volume: median. Seconds are CPU time on the CPU and wall-clock time on a GPU.",
    ]
    return [*notes, *_seed_notes(metadata), *failure_notes(comparison)]


def _seed_notes(metadata: Mapping[str, Any]) -> list[str]:
    if 1 not in metadata["seeds"]:
        return []
    subject = "Each method has one seed" if metadata["seeds"] == [1] else "Some methods have one seed"
    return [f"{subject}: the effect of other seeds is unknown, and verdicts hold only for these networks."]


def failure_notes(comparison: Comparison) -> list[str]:
    """List the candidates that were excluded, and count the patients that could not be scored.

    Args:
        comparison: The comparison.

    Returns:
        One line for each excluded candidate, and one for all unscored patients.
    """
    notes = [f"Excluded: {name}: {reason}" for name, reason in comparison.metadata["excluded"].items()]
    if comparison.unscored:
        example = next(iter(comparison.unscored))
        notes.append(f"{len(comparison.unscored)} could not be scored and are missing, such as {example}.")
    return notes


def _seed_counts(arms: Sequence[ArmResult]) -> str:
    """The number of seeds of the trained methods: one number, or one for each arm."""
    counts = {}
    for arm in arms:
        n_seeds = sorted({method.n_seeds for method in arm.methods if method.n_steps is not None})
        counts[arm.title] = ", ".join(map(str, n_seeds))

    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    return ", ".join(f"{count} ({title})" for title, count in counts.items())


def render_markdown(comparison: Comparison) -> str:
    """Render the comparison as Markdown.

    Args:
        comparison: The comparison.

    Returns:
        Notes, one table and the verdicts of each arm.
    """
    metadata = comparison.metadata
    protocol = metadata["protocol"]
    lines = [f"`{metadata['command']}`, {metadata['date']}, dsdiff {metadata['versions']['dsdiff']}", ""]
    lines += reading_notes(comparison)
    for arm in comparison.arms:
        lines += ["", f"### {arm.title}", ""]
        lines += _markdown_table(["", *column_titles(protocol)], method_rows(arm, protocol))
        lines += [f"\nIncomplete: {name}: {reason}" for name, reason in arm.incomplete.items()]
        lines += ["", *(f"- {result.verdict.sentence}" for result in arm.pairwise), ""]
        lines += _markdown_table([*PAIRWISE_COLUMNS], pairwise_rows(arm.pairwise))
    return "\n".join(lines) + "\n"


def _markdown_table(titles: list[str], rows: list[TableRow]) -> list[str]:
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        name = f"*{row.name}*" if row.is_published else row.name
        lines.append(f"| {name} | {' | '.join(row.cells)} |")
    return lines
