"""What a run tells while it trains: a line of JSON and a bar a step, curves and pictures for TensorBoard if asked."""

import json
import os
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from matplotlib.image import imread
from rich.console import Console

from dsdiff.config.run import TrainingConfig
from dsdiff.errors import ConfigError
from dsdiff.system.atomic import write_whole
from dsdiff.system.console import bars

LOG, TENSORBOARD = "log.jsonl", "tensorboard"


class Watch:
    """The log, the bar and TensorBoard's writer of one run, from the step it is resumed at. Only the first process
    tells: the others log to nowhere.
    """

    def __init__(
        self, run: Path, settings: TrainingConfig, step: int, slices: int, console: Console, first: bool
    ) -> None:
        self.settings, self.console, self.slices = settings, console, slices
        if first:
            forget_after(run / LOG, step)
        self.log = (run / LOG if first else Path(os.devnull)).open(
            "a", buffering=1, encoding="utf-8"
        )  # a line at a time
        self.board = writer(run / TENSORBOARD, step) if settings.tensorboard and first else None
        self.bars = bars(console, count=True)
        self.task = self.bars.add_task("training", total=settings.steps, completed=step)
        self.begun, self.since, self.running = step, time.perf_counter(), 0.0

    def __enter__(self) -> "Watch":
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.bars.stop()
        self.log.close()
        if self.board is not None:
            self.board.close()

    def step(self, step: int, loss: float, rate: float) -> dict[str, Any]:
        """Move the bar; what there is to log of a step. slices: per second since the run was started or resumed."""
        self.running = loss if self.running == 0 else 0.98 * self.running + 0.02 * loss
        seconds = time.perf_counter() - self.since
        speed = (step - self.begun) * self.slices / seconds
        told = f"training (loss {self.running:.4f}, {speed:.1f} slices/s)"
        self.bars.update(self.task, completed=step, description=told)
        return {"step": step, "loss": round(loss, 5), "lr": rate, "seconds": round(seconds, 2)}

    def write(self, facts: dict[str, Any], picture: Path) -> None:
        """Log the facts of a step, and show a validation's picture if it is there."""
        self.log.write(json.dumps(facts) + "\n")
        if "validation" in facts:
            scores = "".join(f", {name} {value:.3f}" for name, value in facts.get("volumes", {}).items())
            self.console.print(
                f"step {facts['step']}: loss {self.running:.4f}, validation {facts['validation']:.4f}{scores}"
            )
        if self.board is not None:
            for name, value in {**facts, **facts.get("volumes", {})}.items():
                if isinstance(value, int | float) and name != "step":
                    self.board.add_scalar(name, value, facts["step"])
            if "validation" in facts and picture.is_file():
                self.board.add_image("samples", imread(picture)[..., :3], facts["step"], dataformats="HWC")


def writer(folder: Path, step: int) -> Any:
    """TensorBoard's writer, which forgets what a stopped run told after `step`. Raises `ConfigError` without it."""
    if find_spec("tensorboard") is None:
        raise ConfigError("training.tensorboard needs the extra: pip install 'dsdiff-mri[tensorboard]'")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=step + 1)


def read_log(log: Path) -> list[dict[str, Any]]:
    """What a run logged, a dict a line; a last line that a killed run did not finish is left out."""
    entries = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def forget_after(log: Path, step: int) -> None:
    """Drop what a stopped run logged after the state it is resumed from."""
    write_whole(log, "".join(json.dumps(entry) + "\n" for entry in read_log(log) if entry["step"] <= step))
