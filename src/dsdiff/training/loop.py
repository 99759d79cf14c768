"""One linear training loop. The same command resumes it: every batch follows from the seed and the step alone."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from dsdiff.config import run as configs
from dsdiff.config.run import RunConfig
from dsdiff.data import dataloader
from dsdiff.data.batch_sampling import Batch
from dsdiff.data.dataloader import Batches, prefetched
from dsdiff.data.dataset import Cohort
from dsdiff.errors import ConfigError, OutputError
from dsdiff.schema import differences
from dsdiff.system import distributed
from dsdiff.system.atomic import alone, sweep, write_whole
from dsdiff.system.console import say
from dsdiff.system.distributed import World
from dsdiff.system.graceful_stop import Stop
from dsdiff.training import model_export, resume, weight_transfer
from dsdiff.training.metrics_logger import LOG, Watch
from dsdiff.training.model_selection import Judge, badness
from dsdiff.training.trainer import Diverged, Trainer, learning_rate
from dsdiff.training.validate import validate

CONFIG, MODEL, BEST, SAMPLES = "config.yaml", "model", "best", "samples"


def train(config: RunConfig, run: Path, where: torch.device, console: Console, workers: int = 0) -> Path:
    """Train `config` in the folder `run`, from where it stopped; returns the model folder it ends with.

    workers: processes that make batches ahead of time, for each process that trains; they change no result.

    Asked to stop (see `training.stop`), it saves its state and ends the process. Raises `ConfigError` where the folder
    belongs to another config, `Diverged` where loss or gradients do, `OutputError` where the disk is full, and what
    reading the data raises.
    """
    with distributed.joined(where) as world, ExitStack() as held:
        world.by_first(lambda: _refuse_foreign(run))
        world.by_first(lambda: held.enter_context(alone(run)))
        world.by_first(lambda: sweep(run))
        return _trained(config, run, world, console if world.first else Console(quiet=True), workers)


def _trained(config: RunConfig, run: Path, world: World, console: Console, workers: int) -> Path:
    """Train among the joined processes; the trainer, and what it holds of them, is gone when it returns."""
    trainer = Trainer(config, world, begun=resume.stands(run))
    validates = config.data.split is not None
    world.by_first(lambda: claim(run, config))
    trainer.came_from = dataloader.fingerprints(config.data)
    facts = resume.resume(trainer, run, console)
    if facts:
        console.print(f"{run}: resumed at step {trainer.step} of {config.training.steps}")
    if not validates and (config.training.validate_volumes or config.training.patience):
        console.print("validate_volumes and patience do nothing: there is no data.split, and nobody to validate on")
    judge = Judge(config.training, facts)
    unfinished = trainer.step < config.training.steps or (validates and judge.due(trainer.step))
    trains = unfinished and not judge.satisfied
    if trains:
        patients = dataloader.gather(config.data, config.conditioning.style, console)
        if config.training.init_from is not None and not facts:
            weight_transfer.refuse_seen(config, config.training.init_from, patients.held_out, console)
        trainer.learn(patients)
        _steps(trainer, judge, run, patients, console, workers)
    for number, decay in enumerate(config.training.ema):
        folder = run / (MODEL if number == judge.ema else f"{MODEL}-ema{decay}")
        if world.largest(int(trains or not folder.is_dir())):  # a finished one stays as it is, hash and all
            model_export.save(trainer, number, folder)
    return run / MODEL


def draws(config: RunConfig, patients: Cohort, rank: int = 0, world: int = 1) -> Batches:
    """What the steps of a run train on: of each, the share of one process."""
    size = config.training.batch_size * config.training.accumulate
    return Batches(config.data, config.seed, size, patients.training, patients.phantoms, rank, world)


def _steps(trainer: Trainer, judge: Judge, run: Path, patients: Cohort, console: Console, workers: int) -> None:
    """Train to the end, or until the judge or a signal ends it."""
    settings, world = trainer.config.training, trainer.world
    drawn = draws(trainer.config, patients, world.rank, world.size)
    batches = prefetched(drawn, trainer.step, settings.steps, workers, pin=trainer.device.type == "cuda")
    with (
        _room(run, trainer),
        Stop() as stop,
        Watch(run, settings, trainer.step, drawn.size * world.size, console, world.first) as watch,
    ):
        if found := _judged(trainer, judge, run, patients, stop, console):  # of step 0, or of a stop's step
            watch.write({"step": trainer.step, **found}, _picture(run, trainer.step))
        if _ended(trainer, judge, run, stop, console, bool(found)):
            return
        for batch in batches:
            rate = learning_rate(settings, trainer.step)
            loss = _step(trainer, batch, run)
            facts = watch.step(trainer.step, loss, rate) | _judged(trainer, judge, run, patients, stop, console)
            watch.write(facts, _picture(run, trainer.step))
            if _ended(trainer, judge, run, stop, console, trainer.step % settings.save_every == 0):
                return


def _ended(trainer: Trainer, judge: Judge, run: Path, stop: Stop, console: Console, due: bool) -> bool:
    """Whether the training is over. Its state is saved if it is, if that is due, and before a signal is obeyed."""
    steps, asked = trainer.config.training.steps, trainer.world.largest(stop.asked)
    last = trainer.step == steps or judge.satisfied
    if asked or last or due:
        resume.save(trainer, run, judge.facts)
    if asked:
        console.print(f"{run}: stopped at step {trainer.step} of {steps}; the same command goes on")
        stop.obey(asked)
    return last


def _step(trainer: Trainer, batch: Batch, run: Path) -> float:
    """One step. Raises `Diverged`, with the batch kept and its cases named, where loss or gradients are not finite."""
    rng = np.random.default_rng([trainer.config.seed, trainer.step])
    try:
        return trainer.train_step(batch, torch.Generator().manual_seed(int(rng.integers(2**62))))
    except Diverged as error:
        kept = resume.keep(batch, run, trainer) if error.cases else ""
        found = trainer.world.gather((kept, error.cases))
        names = ", ".join(sorted({name for _, cases in found for name in cases}))
        files = ", ".join(file for file, _ in found if file)
        raise Diverged(f"{error}. Its slices are of {names} (kept in {run}: {files})", error.cases) from error


def _judged(
    trainer: Trainer, judge: Judge, run: Path, patients: Cohort, stop: Stop, console: Console
) -> dict[str, Any]:
    """Validate if this step is due for it, and keep the weights if they are the best; what there is to log of it."""
    if not patients.held_out or not judge.due(trainer.step):
        return {}
    found = validate(trainer, patients.held_out, _picture(run, trainer.step), stop)
    if found is None:
        return {}
    asked = trainer.config.training.select_by
    if trainer.step == 0 and math.isnan(badness(asked, found.loss, found.volumes)):
        say(console, f"no patient validated on has a score {asked}: none is best, and no {BEST}/ is kept", "red")
    if judge.is_best(trainer.step, found):
        model_export.save(trainer, found.ema, run / BEST)
    several = {"ema": trainer.config.training.ema[found.ema]} if len(trainer.averages) > 1 else {}
    scores = {"volumes": found.volumes} if found.volumes else {}
    return {"validation": round(found.loss, 5), **several, **scores}


def _picture(run: Path, step: int) -> Path:
    return run / SAMPLES / f"step-{step:06d}.png"


@contextmanager
def _room(run: Path, trainer: Trainer) -> Iterator[None]:
    """Say what a disk that takes no more leaves behind. Raises `OutputError`."""
    try:
        yield
    except (OSError, OutputError) as error:
        raise OutputError(
            f"{run}, step {trainer.step}: {error}. The last state stands there whole; once there is room, the same "
            "command goes on"
        ) from error


def claim(run: Path, config: RunConfig) -> None:
    """Make the run folder, or check that it is this config's, if anything was trained by it. Raises `ConfigError` with
    the first keys that differ.
    """
    written, resolved = run / CONFIG, configs.dump(config)
    begun = written.is_file() and (resume.stands(run) or any((run / made).exists() for made in (LOG, MODEL)))
    if begun and (different := differences(configs.load(written), config)):
        told = "; ".join(f"{key}: {there} there, {here} here" for key, (there, here) in [*different.items()][:5])
        more = f" (and {len(different) - 5} more)" * (len(different) > 5)
        raise ConfigError(f"{run} belongs to another config: {told}{more}. Give another folder with -o")
    if not written.is_file() or written.read_text(encoding="utf-8") != resolved:  # keys may have been added since
        write_whole(written, resolved)


def _refuse_foreign(run: Path) -> None:
    """Raise `OutputError` where what a run writes is there already and is not a run's."""
    ours = (MODEL, f"{MODEL}-ema*", BEST, SAMPLES, LOG, f"{resume.STATE}*")
    there = [] if (run / CONFIG).is_file() else sorted(path.name for name in ours for path in run.glob(name))
    if there:
        raise OutputError(f"{run} holds {there[0]}, not by dsdiff train; it is left alone (choose another place)")
