"""Summary of the runs in a folder: a table and a figure from their logs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dsdiff.config.run import load_config
from dsdiff.errors import ConfigError, InputError
from dsdiff.reporting import figures
from dsdiff.reporting.figures import escape_math
from dsdiff.training.loop import CONFIG_FILE, MODEL_FOLDER
from dsdiff.training.metrics_logger import LOG_FILE, read_log
from dsdiff.training.model_selection import selection_loss

SMOOTHING = 0.02  # weight of a new loss in the curve
LINE_STYLES = ("-", "--", ":", "-.")
N_COLORS = 10  # of matplotlib's cycle; further runs differ in line style
MAX_COLUMNS = 4  # panels in a row
PANEL_SIZE = (4.6, 3.6)  # inches
DPI = 130


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        name: Its folder, relative to the folder that was searched.
        steps: Steps to train; 0 if its config cannot be read.
        log: Metrics of each step.
        is_finished: Its model was written.
        select_by: `training.select_by` of its config.
    """

    name: str
    steps: int
    log: list[dict[str, Any]]
    is_finished: bool
    select_by: str = "loss"

    @property
    def last_step(self) -> int:
        """Find the last step of the log.

        Returns:
            Its number; 0 for an empty log.
        """
        return self.log[-1]["step"] if self.log else 0

    @property
    def losses(self) -> tuple[list[int], list[float]]:
        """Smooth the training loss; the first values are the mean of all losses before.

        Returns:
            Steps, and the smoothed loss of each.
        """
        steps: list[int] = []
        smoothed: list[float] = []
        for entry in self.log:
            if "loss" in entry:
                steps.append(entry["step"])
                previous = smoothed[-1] if smoothed else 0.0
                smoothed.append(previous + max(SMOOTHING, 1 / len(steps)) * (entry["loss"] - previous))
        return steps, smoothed

    @property
    def validations(self) -> list[dict[str, Any]]:
        """Select the entries with a validation.

        Returns:
            Metrics of each.
        """
        return [entry for entry in self.log if "validation" in entry]

    @property
    def best(self) -> dict[str, Any] | None:
        """Find the best validation by `select_by`; its weights are in best/.

        Returns:
            Its metrics; None if there is none.
        """
        best, best_loss = None, np.inf
        for entry in self.validations:
            loss = selection_loss(self.select_by, entry["validation"], scores_of(entry))
            if loss < best_loss:  # False for NaN
                best, best_loss = entry, loss
        return best

    @property
    def seconds_per_step(self) -> float:
        """Compute the median time of a step; steps after a validation, and the first after a resume, do not count.

        Returns:
            Seconds; NaN if no step counts.
        """
        timed = [entry for entry in self.log if "seconds" in entry]
        seconds = [
            current["seconds"] - previous["seconds"]
            for previous, current in pairwise(timed)
            if "validation" not in previous
        ]

        return float(np.median([second for second in seconds if second > 0] or [np.nan]))


def scores_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """Look up the scores of full volumes.

    Args:
        entry: Metrics of a step.

    Returns:
        Scores by name; empty without such a validation.
    """
    return entry.get("volumes", {})


def find_runs(folder: Path) -> list[RunSummary]:
    """Find the runs in a folder.

    Args:
        folder: Folder of runs, or of one run.

    Returns:
        Summary of each.

    Raises:
        InputError: There is none.
    """
    runs = []
    for log in sorted(folder.rglob(LOG_FILE)):
        run_dir = log.parent
        if not (run_dir / CONFIG_FILE).is_file():
            continue

        try:
            settings = load_config(run_dir / CONFIG_FILE).training
            steps, select_by = settings.steps, settings.select_by
        except ConfigError:  # its backbone is not installed here, or it is of another version
            steps, select_by = 0, "loss"
        name = str(run_dir.relative_to(folder)) if run_dir != folder else run_dir.resolve().name
        runs.append(RunSummary(name, steps, read_log(log), (run_dir / MODEL_FOLDER).is_dir(), select_by))

    if not runs:
        raise InputError(f"{folder} holds no run; a run is a folder with {CONFIG_FILE} and {LOG_FILE}")
    return runs


def format_table(runs: Sequence[RunSummary]) -> str:
    """Format a table with one line a run; the lowest validation loss comes first.

    Args:
        runs: Runs to compare.

    Returns:
        Markdown.
    """
    score_names = sorted({name for run in runs if run.best for name in scores_of(run.best)})
    header = ("run", "step", "loss", "best validation", "at", "s/step", *score_names)
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for run in sorted(runs, key=lambda run: run.best["validation"] if run.best else np.inf):
        lines.append("| " + " | ".join(_table_cells(run, score_names)) + " |")

    return "\n".join(lines)


def _table_cells(run: RunSummary, score_names: Sequence[str]) -> list[str]:
    progress = f"{run.last_step} of {run.steps}" if run.steps else str(run.last_step)
    _, losses = run.losses
    best = run.best or {}
    scores = scores_of(best)

    return [
        run.name,
        progress + ("" if run.is_finished else " (unfinished)"),
        f"{losses[-1]:.4f}" if losses else "",
        f"{best['validation']:.4f}" if best else "",
        str(best["step"]) if best else "",
        "" if np.isnan(run.seconds_per_step) else f"{run.seconds_per_step:.2f}",
        *(f"{scores[name]:.3f}" if name in scores else "" for name in score_names),
    ]


def plot_runs(runs: Sequence[RunSummary], path: Path) -> None:
    """Plot training loss and validation loss against the step, and a panel for each score of full volumes.

    Args:
        runs: Runs to compare.
        path: PNG to write.
    """
    score_names: set[str] = set()
    for run in runs:
        for entry in run.validations:
            score_names |= set(scores_of(entry))
    titles = ("training loss, smoothed", "validation loss", *sorted(score_names))

    n_columns = min(len(titles), MAX_COLUMNS)
    n_rows = -(-len(titles) // MAX_COLUMNS)
    width, height = PANEL_SIZE[0] * n_columns, PANEL_SIZE[1] * n_rows
    figure = figures.new_figure(width, height, figures.LIGHT_BACKGROUND, DPI, "constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()

    for index, run in enumerate(runs):
        _plot_run(run, list(axes), sorted(score_names), index)
    for axis, title in zip(axes, titles, strict=False):
        _style_axis(axis, title)
    for axis in axes[len(titles) :]:
        axis.set_visible(False)

    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(runs), 4), fontsize=8)
    figures.save_png(figure, path)


def _plot_run(run: RunSummary, axes: Sequence[Axes], score_names: Sequence[str], index: int) -> None:
    style: dict[str, Any] = {
        "color": f"C{index % N_COLORS}",
        "linestyle": LINE_STYLES[index // N_COLORS % len(LINE_STYLES)],
        "linewidth": 1.3,
        "label": escape_math(run.name),
    }
    axes[0].plot(*run.losses, **style)

    steps = [entry["step"] for entry in run.validations]
    axes[1].plot(steps, [entry["validation"] for entry in run.validations], marker=".", **style)
    for axis, name in zip(axes[2:], score_names, strict=False):
        entries = [entry for entry in run.validations if name in scores_of(entry)]
        steps = [entry["step"] for entry in entries]
        axis.plot(steps, [scores_of(entry)[name] for entry in entries], marker=".", **style)


def _style_axis(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
