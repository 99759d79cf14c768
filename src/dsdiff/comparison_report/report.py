"""The HTML report of a comparison: one self-contained page with tables, verdicts, Pareto front and every patient."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from dsdiff.comparison_report import pareto, tables
from dsdiff.comparison_report.results import ArmResult, Comparison, PrimaryMetric
from dsdiff.reporting import score_plots
from dsdiff.reporting.html_pages import render_page


def render_html(comparison: Comparison, pareto_svg: str, metrics: Sequence[PrimaryMetric]) -> str:
    """Render the report.

    Args:
        comparison: The comparison.
        pareto_svg: Output of `figures.render_svg`.
        metrics: The metrics on which methods are compared.

    Returns:
        The HTML page.
    """
    protocol = comparison.metadata["protocol"]
    patient_plots = {}
    for arm in comparison.arms:
        for metric in metrics:
            patient_plots[f"{arm.title}: {metric.title}"] = plot_patient_differences(arm, metric, comparison.patients)

    return render_page(
        "comparison.html",
        comparison=comparison,
        notes=tables.reading_notes(comparison),
        column_titles=tables.column_titles(protocol),
        n_cost_columns=len(tables.COST_COLUMNS),
        method_rows={arm.title: tables.method_rows(arm, protocol) for arm in comparison.arms},
        pairwise_columns=tables.PAIRWISE_COLUMNS,
        pairwise_rows={arm.title: tables.pairwise_rows(arm.pairwise) for arm in comparison.arms},
        front=pareto.inline_svg(pareto_svg),
        patient_plots=patient_plots,
        metrics=metrics,
    )


def plot_patient_differences(arm: ArmResult, metric: PrimaryMetric, patients: Sequence[str]) -> Markup:
    """Plot every patient's difference to the reference, with one box for each method.

    Args:
        arm: The results of one arm.
        metric: The metric.
        patients: Names of the patients.

    Returns:
        An `<svg>` element; empty if the reference lacks the score.
    """
    if metric.score not in arm.methods[0].scores:
        return Markup()

    reference, *candidates = [method for method in arm.methods if metric.score in method.scores]
    reference_values = reference.scores[metric.score].mean(0)
    differences = {}
    for method in candidates:
        values = np.asarray(method.scores[metric.score].mean(0) - reference_values)
        differences[method.name] = dict(zip(patients, values.tolist(), strict=True))
    return score_plots.box_plot(differences, metric.unit, dict.fromkeys(differences, 0.0))
