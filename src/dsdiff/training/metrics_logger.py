"""Metrics of a run: one line of JSON a step, a progress callback, and TensorBoard on request."""

import json
import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from matplotlib.image import imread

from dsdiff.config.training import TrainingConfig
from dsdiff.errors import ConfigError
from dsdiff.system.atomic import atomic_write_text
from dsdiff.system.console import ProgressCallback, ignore_progress

logger = logging.getLogger(__name__)

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
LOSS_WEIGHT = 0.02  # of a new loss in the running mean


class MetricsLogger:
    """Write the metrics of a run, from the step at which it starts or resumes.

    Args:
        run_dir: Folder of the run.
        settings: The `training` block of the config.
        first_step: Steps that were trained before.
        slices_per_step: Slices of a step in all processes.
        is_first: This is the first process; the others write nothing.
        progress: Called after each step.
    """

    def __init__(
        self,
        run_dir: Path,
        settings: TrainingConfig,
        first_step: int,
        slices_per_step: int,
        is_first: bool = True,
        progress: ProgressCallback = ignore_progress,
    ) -> None:
        self.settings = settings
        self.first_step = first_step
        self.slices_per_step = slices_per_step
        self.progress = progress

        if is_first:
            truncate_log(run_dir / LOG_FILE, first_step)
        path = run_dir / LOG_FILE if is_first else Path(os.devnull)
        self.log = path.open("a", buffering=1, encoding="utf-8")  # flushed after each line
        self.tensorboard = None
        if settings.tensorboard and is_first:
            self.tensorboard = open_tensorboard(run_dir / TENSORBOARD_FOLDER, first_step)

        self.start_time = time.perf_counter()
        self.running_loss = 0.0

    def __enter__(self) -> "MetricsLogger":
        self.progress("training", self.first_step, self.settings.steps)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.log.close()
        if self.tensorboard is not None:
            self.tensorboard.close()

    def record_step(self, step: int, loss: float, rate: float) -> dict[str, Any]:
        """Report the progress of a step.

        Args:
            step: Steps that were trained.
            loss: Loss of the step.
            rate: Learning rate of the step.

        Returns:
            Step, loss, learning rate, and seconds since the run started or resumed.
        """
        is_first_loss = self.running_loss == 0
        self.running_loss = loss if is_first_loss else (1 - LOSS_WEIGHT) * self.running_loss + LOSS_WEIGHT * loss
        seconds = time.perf_counter() - self.start_time
        speed = (step - self.first_step) * self.slices_per_step / seconds
        self.progress("training", step, self.settings.steps, f"(loss {self.running_loss:.4f}, {speed:.1f} slices/s)")

        return {"step": step, "loss": round(loss, 5), "lr": rate, "seconds": round(seconds, 2)}

    def write(self, metrics: dict[str, Any], picture: Path) -> None:
        """Write the metrics of a step, and log those of a validation.

        Args:
            metrics: By name; "step" is required, "volumes" holds the scores of full volumes.
            picture: PNG of a validation, for TensorBoard; it may not exist.
        """
        self.log.write(json.dumps(metrics) + "\n")

        scores = metrics.get("volumes", {})
        if "validation" in metrics:
            scores_text = "".join(f", {name} {value:.3f}" for name, value in scores.items())
            logger.info(
                f"step {metrics['step']}: loss {self.running_loss:.4f}, validation {metrics['validation']:.4f}"
                f"{scores_text}"
            )

        if self.tensorboard is not None:
            for name, value in {**metrics, **scores}.items():
                if isinstance(value, int | float) and name != "step":
                    self.tensorboard.add_scalar(name, value, metrics["step"])
            if "validation" in metrics and picture.is_file():
                image = imread(picture)[..., :3]
                self.tensorboard.add_image("samples", image, metrics["step"], dataformats="HWC")


def open_tensorboard(folder: Path, step: int) -> Any:
    """Open TensorBoard's writer.

    Args:
        folder: Folder of its files.
        step: Later steps, of a run that was stopped, are dropped.

    Returns:
        The writer.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise ConfigError("training.tensorboard needs an extra: pip install 'dsdiff-mri[tensorboard]'")

    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=step + 1)


def read_log(log: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run.

    Args:
        log: File of metrics; it may not exist.

    Returns:
        Metrics of each step. An unfinished last line, of a run that was killed, is left out.
    """
    if not log.is_file():
        return []

    entries = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def truncate_log(log: Path, step: int) -> None:
    """Drop the metrics after the state from which a run resumes.

    Args:
        log: File of metrics.
        step: Last step to keep.

    Raises:
        OutputError: The file cannot be written.
    """
    lines = [json.dumps(entry) + "\n" for entry in read_log(log) if entry["step"] <= step]
    atomic_write_text(log, "".join(lines))
