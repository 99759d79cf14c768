"""Report of `dsdiff evaluate`: one self-contained HTML page, worst patients first. It opens offline and prints."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from dsdiff.evaluation import calibration
from dsdiff.evaluation.protocols import PROTOCOLS
from dsdiff.evaluation.results import Results, Summary, mean_calibration_curve, summarize, volume_agreement
from dsdiff.reporting import patient_images, score_names, score_plots
from dsdiff.reporting.html_pages import render_page
from dsdiff.reporting.patient_images import Panel

N_WORST, N_MEDIAN, N_BEST = 3, 2, 2  # patients with images
N_WITHOUT_AUC = 2  # patients without an AUC in the tumour with images
MISPLACED_AUC = 0.7  # AUC in the tumour below which a note says that enhancement is misplaced
NO_TUMOUR = "no segmented tumour: lesions cannot be counted, and enhancement counted as false may be true"
MIN_NOTED_FALSE_ML = 0.1  # less false enhancement gets no note


@dataclass(frozen=True)
class ReportPatient:
    """One patient with images: case name, rank in words, what is wrong, panels."""

    case: str
    rank: str
    failure_notes: list[str]
    panels: list[Panel]


def select_patients(results: Results) -> dict[str, str]:
    """Select the patients whose images the report shows: worst, median and best, or all of a small cohort.

    The worst patients without an AUC in the tumour fail in another way; they follow the worst ones with an AUC.

    Args:
        results: The results.

    Returns:
        Case -> its rank in words, in the order of the report.
    """
    cases = results.worst_first()
    if len(cases) <= N_WORST + N_MEDIAN + N_BEST:
        return {case: f"{k + 1} of {len(cases)}, worst first" for k, case in enumerate(cases)}

    ranking = results.with_tumour_auc()
    without_auc = results.without_tumour_auc()[:N_WITHOUT_AUC]
    if not ranking:
        ranking, without_auc = results.without_tumour_auc(), []

    n = len(ranking)
    middle = (n - N_MEDIAN) // 2
    selected = {case: f"worst, {k + 1} of {n}" for k, case in enumerate(ranking[:N_WORST])}
    selected |= {case: "most false enhancement" for case in without_auc}
    groups = {"median": ranking[middle : middle + N_MEDIAN], "best": ranking[max(n - N_BEST, 0) :]}
    for group, members in groups.items():
        for case in members:
            selected.setdefault(case, f"{group}, {ranking.index(case) + 1} of {n}")
    return selected


def failure_notes(scores: dict[str, float]) -> list[str]:
    """Describe what is wrong with one patient.

    Args:
        scores: Score -> value.

    Returns:
        Short notes; empty if nothing is wrong.
    """
    notes = [] if "lesions" not in scores or np.isfinite(scores["lesions"]) else [NO_TUMOUR]
    n_detected, n_true = scores.get("lesions_found", float("nan")), scores.get("lesions", 0.0)
    if n_detected < n_true:
        notes.append(f"{n_true - n_detected:.0f} of {n_true:.0f} lesion{'s' * (n_true != 1)} missed")
    if n_false := scores.get("false_lesions", 0.0):
        notes.append(f"{n_false:.0f} false lesion{'s' * (n_false != 1)}")
    if (false_ml := scores.get("false_ml", 0.0)) >= MIN_NOTED_FALSE_ML:
        notes.append(f"{false_ml:.1f} ml of false enhancement")
    if scores.get("auc_tumour", 1.0) < MISPLACED_AUC:
        notes.append("enhancement misplaced in the tumour")
    return notes


def render_html(results: Results, render_panels: Callable[[str], list[Panel]]) -> str:
    """Render the report.

    Args:
        results: The results.
        render_panels: Returns the images of a case; called once for each case of `select_patients`.

    Returns:
        The page as HTML text.
    """
    patients = [
        ReportPatient(case, rank, failure_notes(results.patients[case]), render_panels(case))
        for case, rank in select_patients(results).items()
    ]
    summary = summarize(results)
    return render_page(
        "evaluation.html",
        results=results,
        protocol_description=PROTOCOLS[results.protocol].description,
        summary=summary,
        similarity=similarity_table(summary),
        groups={
            "Enhancement": _available(score_names.ENHANCEMENT, summary),
            "Slices and sharpness": _available(score_names.TEXTURE, summary),
            "Uncertainty": _available(score_names.CALIBRATION, summary),
        },
        plots=render_plots(results),
        agreement=volume_agreement(results),
        report_patients=patients,
        columns=_table_columns(results),
        score_infos={name: score_names.describe_score(name) for name in results.score_names()},
        failure_notes={case: failure_notes(results.patients[case]) for case in results.patients},
        legend=patient_images.color_legend(),
    )


def similarity_table(summary: Summary) -> dict[str, dict[str, str]]:
    """Arrange the similarity scores by region.

    Args:
        summary: The scores.

    Returns:
        Title of the region -> metric -> name of the score, only for scores with a value.
    """
    table: dict[str, dict[str, str]] = {}
    for region, title in score_names.REGION_TITLES.items():
        names = {metric: f"{metric}_{region}" for metric in score_names.SIMILARITY}
        available = {metric: name for metric, name in names.items() if name in summary}
        if available:
            table[title] = available
    return table


def _available(names: Iterable[str], summary: Summary) -> list[str]:
    return [name for name in names if name in summary]


def _table_columns(results: Results) -> list[str]:
    """Return the scores of the table of patients: the main ones of each kind."""
    columns = [
        results.main_score,
        f"ssim_{PROTOCOLS[results.protocol].widest_region}",
        "ssim_tumour",
        "auc_brain",
        "auc_tumour",
        "enhancement_recovery",
        "lesions_found",
        "lesions",
        "false_lesions",
        "false_ml",
        "enhancing_ml",
        "enhancing_ml_truth",
        "sharpness",
        "coverage_95",
    ]
    available = results.score_names()
    return [name for name in columns if name in available]


def render_plots(results: Results) -> dict[str, Markup]:
    """Render every plot for which there are values.

    Args:
        results: The results.

    Returns:
        Title -> plot as SVG.
    """
    values = {name: dict(zip(results.patients, results.values(name), strict=True)) for name in results.score_names()}

    def by_region(metric: str) -> dict[str, dict[str, float]]:
        names = {title: f"{metric}_{region}" for region, title in score_names.REGION_TITLES.items()}
        return {title: values[name] for title, name in names.items() if name in values}

    references = {"auc_brain": 0.5, "auc_tumour": 0.5, "enhancement_recovery": 1.0}  # chance, full recovery
    titles = {name: score_names.describe_score(name).title for name in (*references, "detection") if name in values}
    enhancement = {title: values[name] for name, title in titles.items()}
    lines = {titles[name]: value for name, value in references.items() if name in titles}
    false_ml = {"false enhancement": values["false_ml"]} if "false_ml" in values else {}

    plots = {
        "PSNR by region": score_plots.box_plot(by_region("psnr"), "dB", {}),
        "SSIM by region": score_plots.box_plot(by_region("ssim"), "", {}),
        "Enhancement (dashed: chance for AUC, full recovery)": score_plots.box_plot(enhancement, "", lines),
        "False enhancement": score_plots.box_plot(false_ml, "ml", {}),
    }
    if agreement := volume_agreement(results):
        synthetic, acquired = values["enhancing_ml"], values["enhancing_ml_truth"]
        plot = score_plots.bland_altman_plot(synthetic, acquired, agreement)
        plots["Enhancing volume in the tumour (Bland-Altman)"] = plot
    if curve := mean_calibration_curve(results):
        curves = {case: _coverage_curve(scores) for case, scores in results.patients.items() if "coverage_50" in scores}
        plots["Calibration of the uncertainty"] = score_plots.calibration_plot(curve, curves)
    return {title: plot for title, plot in plots.items() if plot}


def _coverage_curve(scores: dict[str, float]) -> dict[float, float]:
    return {level: scores[calibration.coverage_name(level)] for level in calibration.NOMINAL_LEVELS}
