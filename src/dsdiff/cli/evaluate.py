"""dsdiff evaluate: synthetic T1ce against the acquired ones."""

import re
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdiff.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from dsdiff.evaluation.pairing import Pairs
    from dsdiff.evaluation.results import Results

OURS = re.compile(r"patients\.csv|summary\.json|report\.html")


def command(
    prediction: Annotated[
        Path, typer.Argument(metavar="PRED", help="Synthetic T1ce: a folder as dsdiff synth writes it, or one file.")
    ],
    truth: Annotated[
        Path, typer.Argument(metavar="TRUTH", help="Acquired: a folder of cases (T1ce, T1, seg), or one T1ce file.")
    ],
    protocol: Annotated[
        str, typer.Option(help="brain (ours), brasyn (the challenge's) or volume (background included).")
    ] = "brain",
    fit: Annotated[
        bool, typer.Option("--fit", help="Remove the best linear intensity map before likeness is measured.")
    ] = False,
    t1: Annotated[
        Path | None, typer.Option("--t1", help="T1, where TRUTH is a file; without it no enhancement.")
    ] = None,
    seg: Annotated[Path | None, typer.Option("--seg", help="Segmentation of one case, or a folder of them.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", readable=False, help="The folder of the results.")] = Path(
        "evaluation"
    ),
) -> None:
    """Measure synthetic T1ce against the acquired ones.

    Writes OUT/report.html (opens offline, worst patients first), OUT/patients.csv and OUT/summary.json. Cases are
    paired by name; one case and one file go together whatever they are called. Every number names its protocol;
    docs/metrics.md defines them. Exit code: 0 all scored, 1 some case could not be, 2 a mistake in the command or no
    case scored.

    Examples:

        dsdiff evaluate out cohort -o evaluation

        dsdiff evaluate out cohort --protocol volume --fit -o evaluation-volume

        dsdiff evaluate synthetic.nii.gz t1ce.nii.gz --t1 t1.nii.gz --seg seg.nii.gz
    """
    from rich.console import Console

    from dsdiff.evaluation import pairing, protocols
    from dsdiff.evaluation import results as cohort
    from dsdiff.system import atomic

    protocols.named(protocol)
    atomic.refuse_foreign(out, "summary.json", cohort.WHAT, OURS)
    console = Console(stderr=True)
    found = pairing.find(prediction, truth, t1, seg)
    results = _score(found, protocol, fit, console)
    if not results.patients:
        case, reason = next(iter(results.failed.items()))
        raise InputError(f"no case could be scored; {case}: {reason}")
    with atomic.whole(out) as folder:
        _write(results, found, folder, console)
    _say(results, out, console)
    if results.failed:
        raise typer.Exit(1)


def _score(found: "Pairs", protocol: str, fit: bool, console: "Console") -> "Results":
    """Score every pair, with a bar and a line for each that could not be."""
    from dsdiff.evaluation import results as cohort
    from dsdiff.system.console import bars, say

    with bars(console, count=True) as progress:
        task = progress.add_task(f"scoring by {protocol}", total=len(found.found))

        def done(case: str, reason: str | None) -> None:
            if reason is not None:
                say(progress.console, f"{case}: {reason}", "red")
            progress.advance(task)

        return cohort.evaluate(found, protocol, fit, done)


def _write(results: "Results", found: "Pairs", folder: Path, console: "Console") -> None:
    """The three files; the patients that the report shows are read once more, so that memory stays small."""
    from dsdiff.evaluation import patient_scores
    from dsdiff.evaluation import results as cohort
    from dsdiff.reporting import evaluation_report, patient_images
    from dsdiff.reporting.patient_images import Panel
    from dsdiff.system.console import bars

    by_name = {case.name: (made, case) for made, case in found.found}
    with bars(console, count=True) as progress:
        task = progress.add_task("drawing", total=len(evaluation_report.chosen(results)))

        def draw(case: str) -> list[Panel]:
            drawn = patient_images.panels(patient_scores.read(*by_name[case]))
            progress.advance(task)
            return drawn

        (folder / "report.html").write_text(evaluation_report.page(results, draw), encoding="utf-8")
    cohort.write_csv(results, folder / "patients.csv")
    cohort.write_json(results, folder / "summary.json")


def _say(results: "Results", out: Path, console: "Console") -> None:
    """The main scores, the protocol beside them, and what is missing."""
    from dsdiff.evaluation import results as cohort
    from dsdiff.reporting import score_names
    from dsdiff.system.console import say

    def tell(text: str) -> None:
        say(console, text)

    summed = cohort.summary(results)
    fitted = ", fitted" if results.fit else ""
    patients = f"{results.count} patient{'s' * (results.count != 1)}"
    tell(f"protocol {results.protocol}{fitted}, {patients}, mean [95 %]:")
    volumes = ("false_ml", "enhancing_ml", "enhancing_ml_truth")
    for name in (results.main, "ssim_tumour", "auc_brain", "auc_tumour", "gain", "detection", *volumes):
        if name in summed:
            one, measure = summed[name], score_names.describe(name)
            interval = "" if isnan(one["low"]) else f" [{one['low']:.2f}, {one['high']:.2f}]"
            numbers = f"{one['mean']:.2f}{interval} {measure.unit}".rstrip()
            tell(f"  {measure.title}: {numbers} ({one['n']} patient{'s' * (one['n'] > 1)})")
    if unsegmented := results.unsegmented():
        tell(f"{len(unsegmented)} have no segmented tumour: no lesions are counted, what counts as false may be true")
    for doubt, names in results.doubts.items():
        say(console, f"{len(names)} of {len(results.patients)}: {doubt}", "yellow")
    if results.without_prediction:
        tell(f"{len(results.without_prediction)} cases of TRUTH have no synthetic T1ce and are not in these numbers")
    if results.failed:
        tell(f"{len(results.failed)} cases could not be scored:")
        for case, reason in results.failed.items():
            tell(f"  {case}: {reason}")
    tell(f"open {out / 'report.html'}")
