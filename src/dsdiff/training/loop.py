"""The training loop. The same command resumes it: every batch follows from the seed and the step alone."""

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dsdiff.config.run import RunConfig, dump_config, load_config
from dsdiff.data.assemble_cohort import TrainingData, assemble_cohort, data_fingerprints
from dsdiff.data.batch_sampling import Batch
from dsdiff.data.dataloader import TrainingBatches, prefetch_batches
from dsdiff.errors import ConfigError, OutputError
from dsdiff.schema import diff_configs
from dsdiff.system import distributed
from dsdiff.system.atomic import atomic_write_text, exclusive_lock, recover_interrupted
from dsdiff.system.console import ProgressCallback, ignore_progress, silence
from dsdiff.system.distributed import ProcessGroup
from dsdiff.system.graceful_stop import GracefulStop
from dsdiff.training import model_export, resume, weight_transfer
from dsdiff.training.metrics_logger import LOG_FILE, MetricsLogger
from dsdiff.training.model_selection import ModelSelector, selection_loss
from dsdiff.training.trainer import Trainer, TrainingDivergedError, learning_rate
from dsdiff.training.validate import validate

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
MODEL_FOLDER = "model"
BEST_FOLDER = "best"
SAMPLES_FOLDER = "samples"
MAX_DIFFERENCES = 5  # between two configs, that a message lists


def train(
    config: RunConfig,
    run_dir: Path,
    device: torch.device,
    *,
    workers: int = 0,
    progress: ProgressCallback = ignore_progress,
) -> Path:
    """Train a run, from where it stopped. On SIGTERM or Ctrl-C it saves its state and ends the process.

    Args:
        config: The run.
        run_dir: Folder of the run.
        device: Device to train on; torchrun gives each process its own GPU.
        workers: Processes that prepare batches, for each process that trains; they do not change the result.
        progress: Called after each step.

    Returns:
        Folder of the trained model.

    Raises:
        ConfigError: The folder belongs to another config, or the config does not fit data, device or processes.
        InputError: A training patient cannot be read.
        ModelError: The model to start from, or every training state, is damaged.
        OutputError: The folder cannot be written, holds other files, or the disk is full.
        TrainingDivergedError: Loss or gradient is not finite.
    """
    with distributed.init_distributed(device) as process_group, ExitStack() as stack:
        process_group.rank0_broadcast(lambda: _check_output_files(run_dir))
        process_group.rank0_broadcast(lambda: stack.enter_context(exclusive_lock(run_dir)))
        process_group.rank0_broadcast(lambda: recover_interrupted(run_dir))
        stack.enter_context(silence(not process_group.is_first))

        return _train_in_group(config, run_dir, process_group, workers, progress)


def _train_in_group(
    config: RunConfig, run_dir: Path, process_group: ProcessGroup, workers: int, progress: ProgressCallback
) -> Path:
    """Train in all processes. The trainer, and what it holds of the group, is released when this returns."""
    settings, has_split = config.training, config.data.split is not None
    trainer = Trainer(config, process_group, resumes=resume.has_state(run_dir))
    process_group.rank0_broadcast(lambda: init_run_dir(run_dir, config))
    trainer.fingerprints = data_fingerprints(config.data)

    state = resume.restore_state(trainer, run_dir)
    if state is not None:
        logger.info(f"{run_dir}: resumed at step {trainer.step} of {settings.steps}")
    if not has_split and (settings.validate_volumes or settings.patience):
        logger.info("validate_volumes and patience have no effect: without data.split, no patient is held out")

    selector = ModelSelector(settings, None if state is None else state.selection)
    is_unfinished = trainer.step < settings.steps or (has_split and selector.should_validate(trainer.step))
    trains = is_unfinished and not selector.patience_exhausted
    if trains:
        data = assemble_cohort(config.data, config.conditioning.style, progress)
        if settings.init_from is not None and state is None:
            weight_transfer.check_leakage(config, settings.init_from, data.held_out)
        trainer.fit_metadata(data)
        _Run(run_dir, trainer, selector, data).train(workers, progress)

    for index, decay in enumerate(settings.ema):
        folder = run_dir / (MODEL_FOLDER if index == selector.average_index else f"{MODEL_FOLDER}-ema{decay}")
        if process_group.all_reduce_max(int(trains or not folder.is_dir())):  # a finished model keeps its hash
            model_export.save_average(trainer, index, folder)

    return run_dir / MODEL_FOLDER


def training_batches(config: RunConfig, data: TrainingData, rank: int = 0, world_size: int = 1) -> TrainingBatches:
    """Define the batches of a run.

    Args:
        config: The run.
        data: Training patients.
        rank: Number of this process.
        world_size: Number of processes.

    Returns:
        This process' share of the batch of each step.
    """
    size = config.training.batch_size * config.training.accumulate

    return TrainingBatches(config.data, config.seed, size, data.training, data.phantoms, rank, world_size)


@dataclass(frozen=True)
class _Run:
    """The steps of a run."""

    run_dir: Path
    trainer: Trainer
    selector: ModelSelector
    data: TrainingData

    def train(self, workers: int, progress: ProgressCallback) -> None:
        """Train to the end, or until the patience is exhausted or a signal arrives."""
        trainer, settings, process_group = self.trainer, self.trainer.config.training, self.trainer.process_group
        is_first = process_group.is_first
        own_batches = training_batches(trainer.config, self.data, process_group.rank, process_group.size)
        slices_per_step = own_batches.size * process_group.size
        batches = prefetch_batches(
            own_batches, trainer.step, settings.steps, workers, pin_memory=trainer.device.type == "cuda"
        )

        with (
            _explain_full_disk(self.run_dir, trainer),
            GracefulStop() as stop,
            MetricsLogger(
                self.run_dir,
                settings,
                trainer.step,
                slices_per_step,
                is_first,
                progress if is_first else ignore_progress,
            ) as metrics_logger,
        ):
            validation = self._validate_if_due(stop)  # of step 0, or of the step at which a signal arrived
            if validation:
                metrics_logger.write({"step": trainer.step, **validation}, self._picture_path())
            if self._save_if_due(stop, is_due=bool(validation)):
                return

            for batch in batches:
                rate = learning_rate(settings, trainer.step)
                loss = self._train_step(batch)
                metrics = metrics_logger.record_step(trainer.step, loss, rate) | self._validate_if_due(stop)
                metrics_logger.write(metrics, self._picture_path())
                if self._save_if_due(stop, is_due=trainer.step % settings.save_every == 0):
                    return

    def _train_step(self, batch: Batch) -> float:
        """Train one step; write the batch if training diverges.

        Raises:
            TrainingDivergedError: Loss or gradient is not finite.
        """
        trainer = self.trainer
        rng = np.random.default_rng([trainer.config.seed, trainer.step])
        try:
            return trainer.train_step(batch, torch.Generator().manual_seed(int(rng.integers(2**62))))
        except TrainingDivergedError as error:
            file = resume.dump_bad_batch(batch, self.run_dir, trainer) if error.cases else ""
            dumps = trainer.process_group.all_gather((file, error.cases))
            files = ", ".join(file for file, _ in dumps if file)
            cases: set[str] = set()
            for _, process_cases in dumps:
                cases |= set(process_cases)
            raise TrainingDivergedError(
                f"{error}. Its slices are from {', '.join(sorted(cases))} (written to {self.run_dir}: {files})",
                error.cases,
            ) from error

    def _validate_if_due(self, stop: GracefulStop) -> dict[str, Any]:
        """Validate, and save the weights if they are the best; return what to log, nothing if no validation is due."""
        trainer, settings = self.trainer, self.trainer.config.training
        if not self.data.held_out or not self.selector.should_validate(trainer.step):
            return {}

        validation = validate(trainer, self.data.held_out, self._picture_path(), stop)
        if validation is None:
            return {}

        if trainer.step == 0 and math.isnan(selection_loss(settings.select_by, validation.loss, validation.scores)):
            logger.warning(
                f"no validated patient has the score {settings.select_by}; no best model is selected, and "
                f"{BEST_FOLDER}/ is not written"
            )
        if self.selector.update(trainer.step, validation):
            model_export.save_average(trainer, validation.average_index, self.run_dir / BEST_FOLDER)

        metrics: dict[str, Any] = {"validation": round(validation.loss, 5)}
        if len(trainer.averages) > 1:
            metrics["ema"] = settings.ema[validation.average_index]
        if validation.scores:
            metrics["volumes"] = validation.scores
        return metrics

    def _save_if_due(self, stop: GracefulStop, is_due: bool) -> bool:
        """Save the state if that is due, at the end, and after a signal; return True at the end of the run."""
        trainer, steps = self.trainer, self.trainer.config.training.steps
        signal_number = trainer.process_group.all_reduce_max(stop.signal_number)
        is_end = trainer.step == steps or self.selector.patience_exhausted
        if signal_number or is_end or is_due:
            resume.save_state(trainer, self.run_dir, self.selector.state)

        if signal_number:
            logger.info(f"{self.run_dir}: stopped at step {trainer.step} of {steps}; the same command resumes it")
            stop.exit(signal_number)

        return is_end

    def _picture_path(self) -> Path:
        return self.run_dir / SAMPLES_FOLDER / f"step-{self.trainer.step:06d}.png"


@contextmanager
def _explain_full_disk(run_dir: Path, trainer: Trainer) -> Iterator[None]:
    """Add to the error of a full disk what the run keeps.

    Raises:
        OutputError: A file cannot be written.
    """
    try:
        yield
    except (OSError, OutputError) as error:
        raise OutputError(
            f"{run_dir}, step {trainer.step}: {error}. The last training state is complete; free some space, and the "
            "same command resumes the run"
        ) from error


def init_run_dir(run_dir: Path, config: RunConfig) -> None:
    """Create the folder of a run, or check that it belongs to the same config.

    Args:
        run_dir: Folder of the run.
        config: The run.

    Raises:
        ConfigError: Another config was trained in it; the message lists the first keys that differ.
        OutputError: It cannot be written.
    """
    file, text = run_dir / CONFIG_FILE, dump_config(config)
    has_progress = resume.has_state(run_dir) or any((run_dir / name).exists() for name in (LOG_FILE, MODEL_FOLDER))
    if file.is_file() and has_progress:
        differences = list(diff_configs(load_config(file), config).items())
        if differences:
            listed = "; ".join(f"{key}: {old} there, {new} here" for key, (old, new) in differences[:MAX_DIFFERENCES])
            n_more = len(differences) - MAX_DIFFERENCES
            remainder = f" (and {n_more} more)" if n_more > 0 else ""
            raise ConfigError(f"{run_dir} belongs to another config: {listed}{remainder}. Give another folder with -o")

    if not file.is_file() or file.read_text(encoding="utf-8") != text:  # a newer version may have more keys
        atomic_write_text(file, text)


def _check_output_files(run_dir: Path) -> None:
    """Check that a run does not replace files that no run wrote.

    Raises:
        OutputError: It would.
    """
    if (run_dir / CONFIG_FILE).is_file():
        return

    patterns = (MODEL_FOLDER, f"{MODEL_FOLDER}-ema*", BEST_FOLDER, SAMPLES_FOLDER, LOG_FILE, f"{resume.STATE_FILE}*")
    names = sorted(path.name for pattern in patterns for path in run_dir.glob(pattern))
    if names:
        raise OutputError(
            f"{run_dir} holds {names[0]}, which dsdiff train did not write; nothing was changed, choose another folder"
        )
