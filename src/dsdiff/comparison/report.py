"""The comparison's report: one self-contained HTML page with the tables, the verdicts, the front and every patient."""

import numpy as np
from markupsafe import Markup

from dsdiff.comparison import pareto, tables
from dsdiff.comparison.results import Arm, Comparison, Judged
from dsdiff.reporting import evaluation_report, score_plots


def page(found: Comparison, drawing: str, scores: tuple[Judged, ...]) -> str:
    """The report as HTML. drawing: the front as SVG."""
    protocol = found.facts["protocol"]
    return evaluation_report.environment().get_template("comparison.html").render(
        found=found,
        remarks=tables.remarks(found),
        header=tables.header(protocol),
        costs=len(tables.COST),
        lines={arm.title: tables.lines(arm, protocol) for arm in found.arms},
        judged=tables.JUDGED,
        judgements={arm.title: tables.judgements(arm.judgements) for arm in found.arms},
        front=pareto.inline(drawing),
        plots={
            f"{arm.title}: {one.title}": _differences(arm, one, found.patients) for arm in found.arms for one in scores
        },
        scores=scores,
    )  # fmt: skip


def _differences(arm: Arm, one: Judged, patients: tuple[str, ...]) -> Markup:
    """Every patient's difference to the reference, a box for each method."""
    if one.score not in arm.rows[0].scores:
        return Markup()
    reference, *others = [row for row in arm.rows if one.score in row.scores]
    rows = {}
    for row in others:
        difference = row.scores[one.score].mean(0) - reference.scores[one.score].mean(0)
        rows[row.name] = dict(zip(patients, np.asarray(difference).tolist(), strict=True))
    return score_plots.box_plot(rows, one.unit, dict.fromkeys(rows, 0.0))
