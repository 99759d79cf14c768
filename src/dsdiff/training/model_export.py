"""The model folders that a run leaves: averaged weights, their config, a card."""

from pathlib import Path

from dsdiff.config import run as configs
from dsdiff.data import build_store, splits
from dsdiff.model import checkpoint
from dsdiff.training.trainer import Trainer


def save(trainer: Trainer, number: int, folder: Path) -> None:
    """Write the averaged weights of one decay as a model folder; every process must ask.

    Raises `OutputError` in every process where it cannot be written.
    """
    weights, (card, facts) = trainer.whole_average(number), _card(trainer, number)
    config = configs.dump(configs.portable(trainer.config))
    trainer.world.by_first(lambda: checkpoint.save(folder, weights, config, card, facts))


def _card(trainer: Trainer, number: int) -> tuple[str, checkpoint.Facts]:
    """The model card of a run nobody has evaluated yet, and the facts that go with its weights."""
    data, settings = trainer.config.data, trainer.config.training
    n = sum(parameter.numel() for parameter in trainer.averages[number].weights.values())
    unseen, facts = "No fold was held out.", checkpoint.Facts(steps=trainer.step, **build_store.manifest(data))
    if data.split is not None and data.fold is not None:
        split = splits.read(data.split)
        facts |= {"split": split.hash, "fold": data.fold}
        unseen = f"Fold {data.fold} of split {split.hash} was held out: {', '.join(split.held_out(data.fold))}."
    facts |= trainer.knowledge
    if trainer.world.size > 1:
        facts["processes"] = trainer.world.size
    if len(settings.ema) > 1:
        facts["ema"] = settings.ema[number]
    slices = settings.batch_size * settings.accumulate * trainer.world.size
    before = "" if settings.init_from is None else ", after those of the model it began with"
    card = (
        f"# A dsdiff model\n\n{n / 1e6:.2f} M parameters, {trainer.step} steps of {slices} slices{before}. "
        f"{unseen} Not evaluated yet. Research use, not for diagnosis.\n"
    )
    return card, facts
