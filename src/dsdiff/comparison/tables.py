"""A comparison as tables: the cells are made once, for Markdown and for the report."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsdiff.comparison.published import Printed
from dsdiff.comparison.results import Arm, Comparison, Judgement, Row
from dsdiff.evaluation.protocols import named

COST = (
    "parameters", "GMAC", "steps", "training, CPU h", "s a slice", "s a volume", "GiB inference", "GiB training"
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line of a table: whose it is, its cells, and whether it is only quoted from the original's table."""

    name: str
    cells: list[str]
    quoted: bool = False


def columns(protocol: str) -> dict[str, tuple[str, int]]:
    """The scores of the table: name -> title and digits."""
    widest = named(protocol).widest
    return {
        f"psnr_{widest}": ("PSNR, dB", 2),
        f"nrmse_{widest}": ("NRMSE", 4),
        f"ms_ssim_{widest}": ("MS-SSIM", 4),
        "auc_tumour": ("AUC in tumour", 3),
        "gain": ("gain", 2),
    }


def header(protocol: str) -> list[str]:
    """Titles of the columns after the name."""
    return [*COST, *(f"{title} (patients)" for title, _ in columns(protocol).values())]


def lines(arm: Arm, protocol: str) -> list[Line]:
    """One line a method; below it what the original's table prints of its backbone, where it does."""
    found = []
    for row in arm.rows:
        found.append(Line(row.name, [*_cost(row), *_scores(row, protocol)]))
        if row.printed:
            found.append(Line("printed by the original", _printed(row.printed), quoted=True))
    return found


def _cost(row: Row) -> list[str]:
    cost = row.cost
    return [
        "-" if cost is None else f"{cost.parameters / 1e6:.2f} M",
        "-" if cost is None else f"{cost.macs / 1e9:.2f}",
        "-" if row.steps is None else f"{row.steps}",
        "-" if row.hours is None else f"{row.hours:.2f}",
        "-" if cost is None else f"{cost.slice:.3f}",
        "-" if row.volume is None else f"{row.volume:.1f}",
        "-" if cost is None else f"{cost.inference:.2f}",
        "-" if cost is None else "not run" if cost.training is None else f"{cost.training:.2f}",
    ]


def _scores(row: Row, protocol: str) -> list[str]:
    cells = []
    for score, (_, digits) in columns(protocol).items():
        mean, low, high = row.interval(score)
        told = f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] ({row.patients(score)})"
        cells.append("-" if np.isnan(mean) else told)
    return cells


def _printed(said: Printed) -> list[str]:
    cost = [f"{said.parameters} M", "", "", "", "", f"{said.seconds} a sample", f"{said.memory} GB", ""]
    return [*cost, f"{said.psnr:.2f}", f"{said.nrmse:.4f}", f"{said.ms_ssim:.4f}", "", ""]


JUDGED = (
    "against the reference",
    "patients",
    "difference",
    "95 % interval",
    "p (Wilcoxon)",
    "p (Holm)",
    "would have shown",
    "verdict",
)


def judgements(found: Sequence[Judgement]) -> list[Line]:
    """One line a judgement: patients, difference, interval, p-values, smallest detectable difference, verdict."""
    rows = []
    for one in found:
        d, unit = one.difference, one.judged.unit
        cells = [
            f"{d.patients}",
            f"{d.mean:+.3f} {unit}",
            f"{d.low:+.3f} to {d.high:+.3f}",
            f"{d.p:.2g}",
            f"{one.p_holm:.2g}",
            "nothing" if d.least_p >= 0.05 else f"{d.detectable:.3f}",
            one.verdict.word,
        ]
        rows.append(Line(one.method, cells))
    return rows


def remarks(found: Comparison) -> list[str]:
    """What a reader must know to read the tables: protocol, patients, seeds, and what is not in them."""
    facts = found.facts
    said = [
        f"{len(found.patients)} patients, each scored by models that never saw them (split {facts['split']}, "
        f"folds: {facts['folds']}), seeds: {_seeds(found.arms)}; mean and 95 % interval over patients.",
        f"Protocol {facts['protocol']}: {named(facts['protocol']).says}. The original's figures are of BraSyn with the "
        "background counted, one fold and one seed: no score there compares with one here.",
        "GMAC: 10^9 multiply-accumulates of one forward of a training slice. Training: steps times the seconds of a "
        "step, timed once, over all runs. A slice: 256 x 256 or the next size that a network takes, one thread; a "
        "volume: median. Seconds are the CPU's, on a GPU the clock's.",
    ]
    if 1 in facts["seeds"]:
        whose = "One seed each" if facts["seeds"] == [1] else "Where a method has one seed"
        said.append(
            f"{whose}: what other seeds would have changed is unknown, and verdicts hold for these very networks."
        )
    said += [f"Left out: {name}: {why}" for name, why in facts["left_out"].items()]
    if found.unscored:
        said.append(
            f"{len(found.unscored)} could not be scored and are left out, such as {next(iter(found.unscored))}."
        )
    return said


def _seeds(arms: Sequence[Arm]) -> str:
    """How many seeds the trained rows have: a number, or those of each arm."""
    rows = {arm.title: [row for row in arm.rows if row.steps is not None] for arm in arms}
    numbers = {title: sorted({row.seeds for row in trained}) for title, trained in rows.items()}
    said = {title: ", ".join(map(str, several)) for title, several in numbers.items()}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return ", ".join(f"{several} ({title})" for title, several in said.items())


def markdown(found: Comparison) -> str:
    """The whole comparison, to be pasted into a page."""
    facts, protocol = found.facts, found.facts["protocol"]
    text = [f"`{facts['command']}`, {facts['date']}, dsdiff {facts['versions']['dsdiff']}", "", *remarks(found)]
    for arm in found.arms:
        text += ["", f"### {arm.title}", ""]
        text += _table(["", *header(protocol)], lines(arm, protocol))
        text += [f"\nNot in it: {name}: {why}" for name, why in arm.missing.items()]
        text += ["", *(f"- {one.verdict.sentence}" for one in arm.judgements), ""]
        text += _table([*JUDGED], judgements(arm.judgements))
    return "\n".join(text) + "\n"


def _table(titles: list[str], rows: list[Line]) -> list[str]:
    body = [f"| {f'*{row.name}*' if row.quoted else row.name} | {' | '.join(row.cells)} |" for row in rows]
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *body]
