"""What the runs in a folder have come to: read from their logs, drawn into one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dsdiff.config import run as configs
from dsdiff.errors import ConfigError, InputError
from dsdiff.reporting.slice_views import plain
from dsdiff.training.loop import CONFIG, MODEL
from dsdiff.training.metrics_logger import LOG, read_log
from dsdiff.training.model_selection import badness

SMOOTH = 0.02  # of each new loss goes into the curve
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Run:
    """One run: name (its folder's, from where one looks), the steps it is to take, what it logged, and by which score
    its best weights were chosen.
    """

    name: str
    steps: int
    log: list[dict[str, Any]]
    finished: bool
    judge: str = "loss"

    @property
    def done(self) -> int:
        """The last step that was logged."""
        return self.log[-1]["step"] if self.log else 0

    @property
    def losses(self) -> tuple[list[int], list[float]]:
        """Steps, and the loss at each, smoothed: at first the mean of all so far."""
        steps: list[int] = []
        smooth: list[float] = []
        for entry in self.log:
            if "loss" in entry:
                steps.append(entry["step"])
                before = smooth[-1] if smooth else 0.0
                smooth.append(before + max(SMOOTH, 1 / len(steps)) * (entry["loss"] - before))
        return steps, smooth

    @property
    def validations(self) -> list[dict[str, Any]]:
        """The entries with a validation."""
        return [entry for entry in self.log if "validation" in entry]

    @property
    def best(self) -> dict[str, Any] | None:
        """The best validation by the run's own judge, whose weights are kept as best/."""
        judged = [(badness(self.judge, e["validation"], e.get("volumes", {})), e) for e in self.validations]
        return min((one for one in judged if not np.isnan(one[0])), key=lambda one: one[0], default=(0, None))[1]

    @property
    def seconds_per_step(self) -> float:
        """The median over the steps but those after a validation, whose time they hold; a resume begins anew."""
        timed = [entry for entry in self.log if "seconds" in entry]
        taken = [b["seconds"] - a["seconds"] for a, b in pairwise(timed) if "validation" not in a]
        return float(np.median([second for second in taken if second > 0] or [np.nan]))


def find(folder: Path) -> list[Run]:
    """The runs in a folder, or the one that it is. Raises `InputError` where there is none."""
    found = []
    for log in sorted(folder.rglob(LOG)):
        place = log.parent
        if (place / CONFIG).is_file():
            try:
                settings = configs.load(place / CONFIG).training
                steps, judge = settings.steps, settings.select_by
            except ConfigError:  # of a backbone that is not installed here, or of another version
                steps, judge = 0, "loss"
            name = str(place.relative_to(folder)) if place != folder else place.resolve().name
            found.append(Run(name, steps, read_log(log), (place / MODEL).is_dir(), judge))
    if not found:
        raise InputError(f"{folder} holds no run: a run is a folder with {CONFIG} and {LOG}")
    return found


def table(runs: Sequence[Run]) -> str:
    """A line a run, as Markdown: the best validation first."""
    scores = sorted({name for run in runs if run.best for name in run.best.get("volumes", {})})
    lines = [
        "| " + " | ".join(("run", "step", "loss", "best validation", "at", "s/step", *scores)) + " |",
        "|---" * (6 + len(scores)) + "|",
    ]
    for run in sorted(runs, key=lambda run: run.best["validation"] if run.best else np.inf):
        state = f"{run.done} of {run.steps}" if run.steps else str(run.done)
        loss, best = run.losses[1], run.best
        volumes = best.get("volumes", {}) if best else {}
        cells = [run.name, state + ("" if run.finished else " (unfinished)"), f"{loss[-1]:.4f}" if loss else ""]
        cells += [f"{best['validation']:.4f}", str(best["step"])] if best else ["", ""]
        cells += [
            "" if np.isnan(run.seconds_per_step) else f"{run.seconds_per_step:.2f}",
            *(f"{volumes[name]:.3f}" if name in volumes else "" for name in scores),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(runs: Sequence[Run], path: Path) -> None:
    """Loss and validation of every run against the step, and a panel for each score of whole volumes."""
    scores = sorted({name for run in runs for entry in run.validations for name in entry.get("volumes", {})})
    columns = 2 + len(scores)
    figure = Figure(figsize=(4.6 * min(columns, 4), 3.6 * -(-columns // 4)), layout="constrained")
    axes = figure.subplots(-(-columns // 4), min(columns, 4), squeeze=False).ravel()
    for number, run in enumerate(runs):  # ten colours, then again in dashes
        looks = {"color": f"C{number % 10}", "linestyle": DASHES[number // 10 % len(DASHES)]}
        style = {**looks, "linewidth": 1.3, "label": plain(run.name)}
        axes[0].plot(*run.losses, **style)
        steps, validated = [e["step"] for e in run.validations], [e["validation"] for e in run.validations]
        axes[1].plot(steps, validated, marker=".", **style)
        for axis, name in zip(axes[2:], scores, strict=False):
            pairs = [(e["step"], e["volumes"][name]) for e in run.validations if name in e.get("volumes", {})]
            axis.plot([step for step, _ in pairs], [score for _, score in pairs], marker=".", **style)
    for axis, title in zip(axes, ("training loss, smoothed", "validation loss", *scores), strict=False):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[columns:]:
        axis.set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(runs), 4), fontsize=8)
    figure.savefig(path, dpi=130)
