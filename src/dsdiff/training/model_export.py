"""Write the model folders of a run: averaged weights, their config, metadata and a model card."""

from pathlib import Path

from dsdiff.config.run import dump_config, strip_local_paths
from dsdiff.data import build_store, store
from dsdiff.io import splits
from dsdiff.model import checkpoint
from dsdiff.model.metadata import ModelMetadata
from dsdiff.training.trainer import Trainer


def save_average(trainer: Trainer, index: int, folder: Path) -> None:
    """Write averaged weights as a model folder; all processes must call it.

    Args:
        trainer: Trainer of the run.
        index: Of the decay in `training.ema`.
        folder: Folder to write.

    Raises:
        OutputError: The folder cannot be written; raised in all processes.
    """
    weights = trainer.full_average(index)
    config = dump_config(strip_local_paths(trainer.config))
    card = _model_card(trainer, index)
    metadata = collect_metadata(trainer, index)

    trainer.process_group.rank0_broadcast(lambda: checkpoint.save_model(folder, weights, config, card, metadata))


def collect_metadata(trainer: Trainer, index: int) -> ModelMetadata:
    """Collect what goes with averaged weights.

    Args:
        trainer: Trainer of the run.
        index: Of the decay in `training.ema`.

    Returns:
        What the trainer fitted, with steps, held-out fold and preprocessing.
    """
    data, decays = trainer.config.data, trainer.config.training.ema
    updates: dict[str, object] = {
        "steps": trainer.step,
        "preprocessing": build_store.preprocessing_record(data),
        "ema_decay": decays[index] if len(decays) > 1 else None,
    }
    if data.root is not None and store.is_store(data.root):
        updates["store"] = store.open_store(data.root).hash
    if data.split is not None and data.fold is not None:
        updates["split"] = splits.read(data.split).hash
        updates["fold"] = data.fold

    return trainer.metadata.model_copy(update=updates)


def _model_card(trainer: Trainer, index: int) -> str:
    """The model card of a run that has not been evaluated."""
    data, settings = trainer.config.data, trainer.config.training
    n_parameters = sum(parameter.numel() for parameter in trainer.averages[index].weights.values())
    n_slices = settings.batch_size * settings.accumulate * trainer.process_group.size
    pretraining = "" if settings.init_from is None else ", after those of the model that it started from"

    held_out = "No fold was held out."
    if data.split is not None and data.fold is not None:
        split = splits.read(data.split)
        held_out = f"Fold {data.fold} of split {split.hash} was held out: {', '.join(split.held_out(data.fold))}."

    return (
        f"# A dsdiff model\n\n{n_parameters / 1e6:.2f} M parameters, {trainer.step} steps of {n_slices} "
        f"slices{pretraining}. {held_out} Not evaluated yet. For research use, not for diagnosis.\n"
    )
