"""The state of a run: everything that a resume needs, in one file that does not depend on the number of processes.

It holds network, averages, moments of the optimizer, loss scale and step. Random numbers and batches follow from seed
and step, so the step is the position in all of them.
"""

import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from dsdiff.conditioning.network import add_backbone_prefix
from dsdiff.data.batch_sampling import Batch
from dsdiff.data.settings import DataConfig
from dsdiff.errors import ConfigError, ModelError
from dsdiff.model import checkpoint
from dsdiff.model.metadata import ModelMetadata
from dsdiff.schema import ConfigModel, format_validation_error
from dsdiff.system.device import resolve_precision
from dsdiff.system.distributed import full_tensor, shard_like
from dsdiff.training.model_selection import SelectionState
from dsdiff.training.trainer import Trainer

logger = logging.getLogger(__name__)

STATE_FILE = "state.safetensors"
Tensors = dict[str, Tensor]


class TrainingState(ConfigModel):
    """What a state file holds beside tensors.

    Attributes:
        step: Steps that were trained.
        processes: Processes that trained it.
        precision: Precision of the steps, such as "bf16".
        metadata: What goes with the weights.
        fingerprints: Hashes of the training data (see `assemble_cohort.data_fingerprints`).
        scaler: State of the loss scaler; empty if it is disabled.
        selection: State of the model selection.
    """

    step: int
    processes: int
    precision: str
    metadata: ModelMetadata
    fingerprints: dict[str, str]
    scaler: dict[str, Any]
    selection: SelectionState


def save_state(trainer: Trainer, run_dir: Path, selection: SelectionState) -> None:
    """Write the state of a run; the previous one is kept beside it. All processes must call it.

    Args:
        trainer: Trainer of the run.
        run_dir: Folder of the run.
        selection: State of the model selection.

    Raises:
        OutputError: It cannot be written; raised in all processes.
    """
    tensors = {}
    for name, tensor in _state_tensors(trainer).items():
        gathered = full_tensor(tensor)  # one at a time: only the first process keeps them, in its main memory
        if trainer.process_group.is_first:
            tensors[name] = gathered.cpu()

    state = TrainingState(
        step=trainer.step,
        processes=trainer.process_group.size,
        precision=_resolve_precision(trainer),
        metadata=trainer.metadata,
        fingerprints=trainer.fingerprints,
        scaler=trainer.scaler.state_dict(),
        selection=selection,
    )
    path, fields = run_dir / STATE_FILE, state.model_dump(mode="json")
    trainer.process_group.rank0_broadcast(lambda: checkpoint.save_state(path, tensors, fields))


def restore_state(trainer: Trainer, run_dir: Path) -> TrainingState | None:
    """Restore the newest undamaged state of a run; a damaged one is renamed. All processes must call it.

    Args:
        trainer: New trainer of the run.
        run_dir: Folder of the run.

    Returns:
        The state; None if the run has none.

    Raises:
        ModelError: All states are damaged.
        ConfigError: Processes or training data are not those of the state.
    """
    tensors, state, damaged = _read_newest(run_dir)
    trainer.process_group.all_reduce_max(0)  # a barrier: all processes have read
    trainer.process_group.rank0_broadcast(lambda: [path.replace(path.with_suffix(".damaged")) for path in damaged])
    if state is None:
        return None

    _check_same_run(trainer, run_dir, state)

    tensors_by_part: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        part, key = name.split(".", 1)
        tensors_by_part.setdefault(part, {})[key] = tensor

    live_weights = trainer.network.state_dict()
    trainer.network.load_state_dict(_shard_weights(tensors_by_part["network"], live_weights))
    for index, average in enumerate(trainer.averages):
        average.weights = _shard_weights(tensors_by_part[_average_part(index)], live_weights)
    _restore_optimizer(trainer, tensors_by_part.get("optimizer", {}))  # empty before the first step
    if trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(state.scaler)

    trainer.step = state.step
    trainer.metadata = state.metadata
    return state


def has_state(run_dir: Path) -> bool:
    """Tell whether a run has a state, damaged or not.

    Args:
        run_dir: Folder of the run.

    Returns:
        True if a state file exists.
    """
    return bool(_state_paths(run_dir))


def dump_bad_batch(batch: Batch, run_dir: Path, trainer: Trainer) -> str:
    """Write a batch on which training diverged, for inspection.

    Args:
        batch: The batch.
        run_dir: Folder of the run.
        trainer: Trainer of the run.

    Returns:
        Name of the file.

    Raises:
        OutputError: It cannot be written.
    """
    path = run_dir / f"diverged-{trainer.process_group.rank}.safetensors"
    tensors = {"sources": batch.sources, "target": batch.target, "region": batch.region, "present": batch.present}
    if batch.style_image is not None:
        tensors["style_image"] = batch.style_image
    checkpoint.save_state(path, tensors, {"step": trainer.step, "cases": list(batch.case_names)})

    return path.name


def _state_tensors(trainer: Trainer) -> Tensors:
    tensors = {f"network.{name}": tensor for name, tensor in trainer.network.state_dict().items()}
    for index, average in enumerate(trainer.averages):
        tensors |= {f"{_average_part(index)}.{name}": tensor for name, tensor in average.weights.items()}
    for index, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}

    return tensors


def _average_part(index: int) -> str:
    """Prefix of an average in the file."""
    return f"ema{index}"


def _shard_weights(weights: Tensors, live_weights: Tensors) -> Tensors:
    return {name: shard_like(tensor, live_weights[name]) for name, tensor in add_backbone_prefix(weights).items()}


def _resolve_precision(trainer: Trainer) -> str:
    """Precision of the steps on this device."""
    return resolve_precision(trainer.device, trainer.config.training.precision)


def _check_same_run(trainer: Trainer, run_dir: Path, state: TrainingState) -> None:
    """Check that a state fits processes and data; warn if it was trained in another precision.

    Raises:
        ConfigError: It does not fit.
    """
    size = trainer.process_group.size
    if state.processes != size:
        raise ConfigError(
            f"{run_dir} was trained by {state.processes} processes, and this is a run of {size}, whose batches differ; "
            "start as many, or give another folder with -o"
        )

    _check_same_data(run_dir, state.fingerprints, trainer.fingerprints, trainer.config.data)

    precision = _resolve_precision(trainer)
    if state.precision != precision:
        logger.warning(
            f"{run_dir} was trained in {state.precision} and continues in {precision}, which training.precision auto "
            "selects on this device; the weights will differ from those of an uninterrupted run"
        )


def _check_same_data(run_dir: Path, trained: dict[str, str], current: dict[str, str], data: DataConfig) -> None:
    """Check that the training data did not change; a hash that the state lacks is not compared.

    Raises:
        ConfigError: It changed.
    """
    trained = {name: trained.get(name, fingerprint) for name, fingerprint in current.items()}
    if trained.get("split") != current.get("split"):
        raise ConfigError(
            f"{run_dir} was trained without fold {data.fold} of split {trained['split']}, but {data.split} is now "
            f"{current['split']}, and may hold out patients of its training set; restore the split, or give another "
            "folder with -o"
        )

    for name, root in (("store", data.root), ("phantoms", data.phantoms)):
        if trained.get(name) != current.get(name):
            raise ConfigError(
                f"{run_dir} was trained on {root} with hash {trained[name]}, which is now {current[name]}: cases were "
                "added, removed or changed; give another folder with -o"
            )


def _state_paths(run_dir: Path) -> list[Path]:
    """State files of a run, the newest first."""
    newest = run_dir / STATE_FILE

    return [path for path in (newest, checkpoint.previous_path(newest)) if path.is_file()]


def _read_newest(run_dir: Path) -> tuple[Tensors, TrainingState | None, list[Path]]:
    """Read the newest undamaged state; return the damaged files too.

    Raises:
        ModelError: There are states, and all are damaged.
    """
    damaged: list[Path] = []
    for path in _state_paths(run_dir):
        try:
            tensors, fields = checkpoint.read_state(path)
            return tensors, _parse_state(path, fields), damaged
        except ModelError as error:
            logger.warning(f"{str(error).rstrip('.')}. It is renamed to {path.with_suffix('.damaged').name}.")
            damaged.append(path)

    if damaged:
        names = " and ".join(path.name for path in damaged)
        raise ModelError(f"{run_dir}: {names} cannot be read; check the disk, or start again in another folder with -o")
    return {}, None, []


def _parse_state(path: Path, fields: dict[str, Any]) -> TrainingState:
    try:
        return TrainingState.model_validate(fields)
    except ValidationError as error:
        raise ModelError(f"{path}: the training state is damaged ({format_validation_error(error):.300})") from error


def _restore_optimizer(trainer: Trainer, moments: Tensors) -> None:
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]

    state: dict[int, Tensors] = {}
    for key, tensor in moments.items():
        index, name = key.split(".")
        parameter = parameters[int(index)]
        is_moment = tensor.shape == parameter.shape  # the other is the count of steps
        state.setdefault(int(index), {})[name] = shard_like(tensor, parameter) if is_moment else tensor

    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": state})
