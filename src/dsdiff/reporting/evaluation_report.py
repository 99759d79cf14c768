"""The report: one self-contained HTML page, worst patients first. It opens offline and prints."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from dsdiff import __version__
from dsdiff.evaluation import calibration
from dsdiff.evaluation import results as cohort
from dsdiff.evaluation.protocols import PROTOCOLS
from dsdiff.evaluation.results import Results, Summary
from dsdiff.reporting import patient_images, score_names, score_plots
from dsdiff.reporting.patient_images import Panel

WORST, MEDIAN, BEST = 3, 2, 2  # patients shown in pictures
OTHERS = 2  # and of those whose enhancement has no place to be in
MISSED = 0.7  # AUC in the tumour below which enhancement is said to be misplaced
NO_TUMOUR = "no tumour is segmented: lesions cannot be counted, and what counts as false may be true"
LEAST_ML = 0.1  # false enhancement that is worth a word


@dataclass(frozen=True)
class Shown:
    """One patient in pictures: its place among the others, its scores in words, its panels."""

    case: str
    place: str
    remarks: list[str]
    panels: list[Panel]


def chosen(results: Results) -> dict[str, str]:
    """The patients to show, with their place: worst, median and best, in that order; everyone of a small cohort.

    The worst of those without an AUC in the tumour are failures of another kind, and stand after the worst with one.
    """
    everyone, placed, others = results.ranked(), results.placed(), results.others()
    if len(everyone) <= WORST + MEDIAN + BEST:
        return {case: f"{k + 1} of {len(everyone)}, worst first" for k, case in enumerate(everyone)}
    ranked, more = (placed, others[:OTHERS]) if placed else (others, [])
    n = len(ranked)
    middle = (n - MEDIAN) // 2
    shown = {case: f"worst, {k + 1} of {n}" for k, case in enumerate(ranked[:WORST])}
    shown |= {case: "most enhancement where nothing enhances" for case in more}
    for place, some in (("median", ranked[middle : middle + MEDIAN]), ("best", ranked[max(n - BEST, 0) :])):
        shown |= {case: f"{place}, {ranked.index(case) + 1} of {n}" for case in some if case not in shown}
    return shown


def remarks(scores: dict[str, float]) -> list[str]:
    """What is wrong with one patient, in words."""
    said = [] if "lesions" not in scores or np.isfinite(scores["lesions"]) else [NO_TUMOUR]
    found, true = scores.get("lesions_found", float("nan")), scores.get("lesions", 0.0)
    if found < true:
        said.append(f"{true - found:.0f} of {true:.0f} lesion{'s' * (true != 1)} missed")
    if false := scores.get("false_lesions", 0.0):
        said.append(f"{false:.0f} false lesion{'s' * (false != 1)}")
    if (wrong := scores.get("false_ml", 0.0)) >= LEAST_ML:
        said.append(f"{wrong:.1f} ml enhance where nothing does")
    if scores.get("auc_tumour", 1.0) < MISSED:
        said.append("enhancement misplaced in the tumour")
    return said


def page(results: Results, draw: Callable[[str], list[Panel]]) -> str:
    """The report as HTML. draw: the panels of a patient; asked for those that are shown, one after the other."""
    shown = [Shown(case, place, remarks(results.patients[case]), draw(case)) for case, place in chosen(results).items()]
    summed = cohort.summary(results)
    return (
        environment()
        .get_template("evaluation.html")
        .render(
            results=results,
            says=PROTOCOLS[results.protocol].says,
            summary=summed,
            likeness=likeness(summed),
            groups={
                "Enhancement": _rows(summed, score_names.ENHANCEMENT),
                "Slices and sharpness": _rows(summed, score_names.TEXTURE),
                "Uncertainty": _rows(summed, score_names.CALIBRATION),
            },
            plots=drawn(results),
            agreement=cohort.volume_agreement(results),
            shown=shown,
            columns=_columns(results),
            titles={name: score_names.describe(name) for name in results.names()},
            remarks={case: remarks(results.patients[case]) for case in results.patients},
            legend=patient_images.legend(),
        )
    )


def environment() -> Environment:
    """The reports' templates, with what all of them use."""
    found = Environment(
        loader=PackageLoader("dsdiff", "assets"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    found.globals |= {"number": number, "isfinite": np.isfinite, "version": __version__}
    return found


def number(value: float, name: str) -> str:
    """A score with as many digits as mean something; a dash where there is none."""
    if not np.isfinite(value):
        return "∞" if value > 0 else "-"
    digits = 1 if name.endswith("_ml") or "_ml_" in name or "lesions" in name or name.startswith("psnr") else 2
    digits = 3 if name.startswith(("nrmse", "mae", "ssim", "ms_ssim")) else digits
    return f"{value:.{digits}f}"


def likeness(summed: Summary) -> dict[str, dict[str, str]]:
    """Region -> metric -> name of the score, for those that were measured."""
    table: dict[str, dict[str, str]] = {}
    for region, title in score_names.REGIONS.items():
        found = {metric: f"{metric}_{region}" for metric in score_names.LIKENESS if f"{metric}_{region}" in summed}
        if found:
            table[title] = found
    return table


def _rows(summed: Summary, group: dict[str, tuple[str, str, str]]) -> list[str]:
    return [name for name in group if name in summed]


def _columns(results: Results) -> list[str]:
    """The scores of the table of patients: the main one of each kind."""
    widest = PROTOCOLS[results.protocol].widest
    wanted = [
        results.main,
        f"ssim_{widest}",
        "ssim_tumour",
        "auc_brain",
        "auc_tumour",
        "gain",
        "lesions_found",
        "lesions",
    ]
    wanted += ["false_lesions", "false_ml", "enhancing_ml", "enhancing_ml_truth", "sharpness", "coverage_95"]
    return [name for name in wanted if name in results.names()]


def drawn(results: Results) -> dict[str, Markup]:
    """Every plot that there is something to draw of, by its title."""
    by_patient = {name: dict(zip(results.patients, results.values(name), strict=True)) for name in results.names()}

    def rows(metric: str) -> dict[str, dict[str, float]]:
        names = {title: f"{metric}_{region}" for region, title in score_names.REGIONS.items()}
        return {title: by_patient[name] for title, name in names.items() if name in by_patient}

    areas = {
        score_names.PLAIN[n][0]: by_patient[n]
        for n in ("auc_brain", "auc_tumour", "gain", "detection")
        if n in by_patient
    }
    marks = {"AUC in the brain": 0.5, "AUC in the tumour": 0.5, "recovered gain": 1.0}
    wrong = {"false enhancement": by_patient["false_ml"]} if "false_ml" in by_patient else {}
    plotted = {
        "PSNR by region": score_plots.box_plot(rows("psnr"), "dB", {}),
        "SSIM by region": score_plots.box_plot(rows("ssim"), "", {}),
        "Enhancement (dashed: chance for AUC, the truth for gain)": score_plots.box_plot(areas, "", marks),
        "Enhancement that is not there": score_plots.box_plot(wrong, "ml", {}),
    }
    if agreement := cohort.volume_agreement(results):
        made, true = by_patient["enhancing_ml"], by_patient["enhancing_ml_truth"]
        plotted["Enhancing volume in the tumour (Bland-Altman)"] = score_plots.bland_altman(made, true, agreement)
    if curve := cohort.calibration(results):
        each = {case: _curve(scores) for case, scores in results.patients.items() if "coverage_50" in scores}
        plotted["Calibration of the uncertainty"] = score_plots.calibration_curve(curve, each)
    return {title: plot for title, plot in plotted.items() if plot}


def _curve(scores: dict[str, float]) -> dict[float, float]:
    return {level: scores[calibration.name_of(level)] for level in calibration.LEVELS}
