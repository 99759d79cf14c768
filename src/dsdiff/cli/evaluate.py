"""dsdiff evaluate: score synthetic against acquired T1ce."""

import re
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdiff.errors import InputError
from dsdiff.system.console import print_line, progress_bars

if TYPE_CHECKING:
    from dsdiff.evaluation.pairing import Pairing
    from dsdiff.evaluation.results import Results, Summary

REPORT, TABLE, SUMMARY = "report.html", "patients.csv", "summary.json"
OUTPUT_PATTERN = re.compile(r"patients\.csv|summary\.json|report\.html")
PRINTED_SCORES = (
    "ssim_tumour",
    "auc_brain",
    "auc_tumour",
    "enhancement_recovery",
    "detection",
    "false_ml",
    "enhancing_ml",
    "enhancing_ml_truth",
)


def command(
    prediction: Annotated[
        Path,
        typer.Argument(metavar="PRED", help="Synthetic T1ce: an output folder of dsdiff synth, or one NIfTI file."),
    ],
    truth: Annotated[
        Path,
        typer.Argument(
            metavar="TRUTH", help="Acquired T1ce: a folder of cases with T1ce, T1 and seg, or one NIfTI file."
        ),
    ],
    protocol: Annotated[
        str,
        typer.Option(
            help="Where to score: brain, brasyn (as in the BraSyn challenge), or volume (with the background)."
        ),
    ] = "brain",
    fit: Annotated[
        bool,
        typer.Option("--fit", help="Fit the intensities linearly to the acquired T1ce before similarity is measured."),
    ] = False,
    t1: Annotated[
        Path | None,
        typer.Option("--t1", help="NIfTI file with the T1, if TRUTH is a file. Without T1, enhancement is not scored."),
    ] = None,
    seg: Annotated[
        Path | None, typer.Option("--seg", help="Tumour segmentation: a NIfTI file for one case, or a folder.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", readable=False, help="Folder of the results.")] = Path(
        "evaluation"
    ),
) -> None:
    """Score synthetic against acquired T1ce.

    Needs both T1ce on the same grid. Enhancement scores also need the T1, and lesion scores the tumour segmentation.
    Cases are paired by name. A single file is paired with the only case, even if their names differ.

    Writes OUT/report.html (opens offline, worst patients first), OUT/patients.csv and OUT/summary.json. Scores of
    different protocols cannot be compared; docs/metrics.md defines them.

    Exit code: 0 if all cases were scored, 1 if some were not, 2 if the command is wrong or no case was scored.

    Examples:

        dsdiff evaluate out cohort -o evaluation

        dsdiff evaluate out cohort --protocol volume --fit -o evaluation-volume

        dsdiff evaluate synthetic.nii.gz t1ce.nii.gz --t1 t1.nii.gz --seg seg.nii.gz
    """
    from dsdiff.evaluation.pairing import pair_cases
    from dsdiff.evaluation.protocols import get_protocol
    from dsdiff.evaluation.results import FILE_KIND, evaluate_pairs
    from dsdiff.system import atomic, output_checks

    get_protocol(protocol)  # raises for an unknown one
    output_checks.check_replaceable(out, SUMMARY, FILE_KIND, OUTPUT_PATTERN)
    pairing = pair_cases(prediction, truth, t1, seg)

    with progress_bars(count=True) as progress:
        results = evaluate_pairs(pairing, protocol, fit, progress)
    if not results.patients:
        case, reason = next(iter(results.failures.items()))
        raise InputError(f"no case could be scored; {case}: {reason}")

    with atomic.atomic_dir(out) as folder:
        _write_results(results, pairing, folder)
    _print_results(results)
    print_line(f"open {out / REPORT}")
    if results.failures:
        raise typer.Exit(1)


def _write_results(results: "Results", pairing: "Pairing", folder: Path) -> None:
    """Write the three files. The patients with images are read again, so that memory stays small."""
    from dsdiff.evaluation.patient_scores import read_patient
    from dsdiff.evaluation.results import write_csv, write_json
    from dsdiff.reporting import evaluation_report
    from dsdiff.reporting.patient_images import Panel, patient_panels
    from dsdiff.system.unicode_names import to_unicode

    pairs = {case.name: (synthetic, case) for synthetic, case in pairing.pairs}
    n_patients = len(evaluation_report.select_patients(results))
    n_rendered = 0
    with progress_bars(count=True) as progress:

        def render_panels(case_name: str) -> list[Panel]:
            nonlocal n_rendered
            panels = patient_panels(read_patient(*pairs[case_name]))
            n_rendered += 1
            progress("rendering images", n_rendered, n_patients)
            return panels

        page = evaluation_report.render_html(results, render_panels)
    (folder / REPORT).write_text(to_unicode(page), encoding="utf-8")
    write_csv(results, folder / TABLE)
    write_json(results, folder / SUMMARY)


def _print_results(results: "Results") -> None:
    """Print the main scores with their protocol, the warnings, and the cases that are missing."""
    from dsdiff.evaluation.results import summarize

    fitted = ", fitted" if results.fit else ""
    print_line(f"protocol {results.protocol}{fitted}, {_count_patients(results.n_patients)}, mean [95 % interval]:")
    summary = summarize(results)
    for name in (results.main_score, *PRINTED_SCORES):
        if name in summary:
            print_line(f"  {_describe(name, summary)}")

    for case, infinite_scores in results.infinite_scores().items():
        print_line(_describe_infinite(case, infinite_scores), "yellow")
    if unsegmented := results.without_segmentation():
        print_line(
            f"{len(unsegmented)} without a segmented tumour: lesions cannot be counted, and enhancement counted as "
            "false may be true"
        )
    for warning, names in results.warnings.items():
        print_line(f"{len(names)} of {len(results.patients)}: {warning}", "yellow")
    if results.missing_predictions:
        print_line(f"{len(results.missing_predictions)} cases of TRUTH have no synthetic T1ce and are not included")
    if results.failures:
        n_failures = len(results.failures)
        print_line(f"{n_failures} case{'' if n_failures == 1 else 's'} could not be scored:")
        for case, reason in results.failures.items():
            print_line(f"  {case}: {reason}")


def _describe(name: str, summary: "Summary") -> str:
    """Return title, mean, interval, unit and number of patients of one score."""
    from dsdiff.reporting.score_names import describe_score

    values, info = summary[name], describe_score(name)
    interval = "" if isnan(values["low"]) else f" [{values['low']:.2f}, {values['high']:.2f}]"
    numbers = f"{values['mean']:.2f}{interval} {info.unit}".rstrip()
    return f"{info.title}: {numbers} ({_count_patients(int(values['n']))})"


def _describe_infinite(case: str, names: Sequence[str]) -> str:
    """Return a line on a case whose images are identical somewhere."""
    from dsdiff.reporting.score_names import describe_score

    titles = "; ".join(describe_score(name).title for name in names)
    return (
        f"{case}: infinite, so not in the mean: {titles}. Synthetic and acquired T1ce are identical there, up to an "
        "intensity scale"
    )


def _count_patients(n: int) -> str:
    return f"{n} patient{'' if n == 1 else 's'}"
