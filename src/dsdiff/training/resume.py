"""The state of a training: everything that a resume needs, in one file that does not depend on the processes.

Network, averages, the optimiser's moments, the loss scale, the step. Every random number and every batch follows from
seed and step, so that the step is the position in the data and of every random generator.
"""

from pathlib import Path

from rich.console import Console
from torch import Tensor

from dsdiff.conditioning.network import named
from dsdiff.data.batch_sampling import Batch
from dsdiff.data.settings import DataConfig
from dsdiff.errors import ConfigError, ModelError
from dsdiff.model import checkpoint
from dsdiff.model.checkpoint import Facts
from dsdiff.system import device
from dsdiff.system.console import say
from dsdiff.system.distributed import shared_out, whole
from dsdiff.training.trainer import KNOWLEDGE, Trainer

STATE, PRECISION = "state.safetensors", "precision"
Tensors = dict[str, Tensor]


def save(trainer: Trainer, run: Path, facts: Facts) -> None:
    """Write the state of all processes, and facts beside it; the state before it is kept.

    Raises `OutputError` in every process where it cannot be written.
    """
    tensors = {}
    for name, value in _live(trainer).items():
        together = whole(value)  # one after the other: only the first process keeps them, and not on its GPU
        if trainer.world.first:
            tensors[name] = together.cpu()
    scale = {f"scaler.{name}": value for name, value in trainer.scaler.state_dict().items()}
    known = {PRECISION: _precision(trainer), **trainer.knowledge, **trainer.came_from}
    told: Facts = {"step": trainer.step, "processes": trainer.world.size, **known, **scale, **facts}
    trainer.world.by_first(lambda: checkpoint.save_state(run / STATE, tensors, told))


def keep(batch: Batch, run: Path, trainer: Trainer) -> str:
    """Keep a batch that must not be trained on, to be looked at; returns the file's name."""
    path = run / f"diverged-{trainer.world.rank}.safetensors"
    tensors = {"sources": batch.sources, "target": batch.target, "region": batch.region, "present": batch.present}
    tensors |= {} if batch.styled is None else {"styled": batch.styled}
    checkpoint.save_state(path, tensors, {"step": trainer.step, "cases": " ".join(batch.cases)})
    return path.name


def _live(trainer: Trainer) -> Tensors:
    tensors = {f"network.{name}": value for name, value in trainer.network.state_dict().items()}
    for number, average in enumerate(trainer.averages):
        tensors |= {f"{_average(number)}.{name}": value for name, value in average.weights.items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return tensors


def _average(number: int) -> str:
    """The name of an average in the file: that of a single one is the name from before there were several."""
    return f"ema{number or ''}"


def resume(trainer: Trainer, run: Path, console: Console) -> Facts:
    """Take up the newest whole state that `save` wrote; returns the facts beside it, none where there is no state.

    A damaged one is named. Raises `ModelError` where all are damaged, and `ConfigError` for other processes than it
    was trained by.
    """
    tensors, facts, damaged = _newest(run, console)
    trainer.world.largest(0)  # all have read
    trainer.world.by_first(lambda: [path.replace(path.with_suffix(".damaged")) for path in damaged])
    if not facts:
        return {}
    if (processes := facts.get("processes", 1)) != trainer.world.size:
        raise ConfigError(
            f"{run} was trained by {processes} processes, and its batches are theirs; here are {trainer.world.size}: "
            "start as many, or give another folder with -o"
        )
    _refuse_others(run, facts, trainer.came_from, trainer.config.data)
    if (before := facts.get(PRECISION, _precision(trainer))) != _precision(trainer):
        say(
            console,
            f"{run} was trained in {before} so far and goes on in {_precision(trainer)}, what training.precision "
            "auto takes here: it will not end in the bits that it would have ended in there",
            "red",
        )
    parts: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        part, key = name.split(".", 1)
        parts.setdefault(part, {})[key] = tensor
    live = trainer.network.state_dict()
    trainer.network.load_state_dict({k: shared_out(v, live[k]) for k, v in named(parts["network"]).items()})
    for number, average in enumerate(trainer.averages):
        average.weights = {k: shared_out(v, live[k]) for k, v in named(parts[_average(number)]).items()}
    _resume_optimizer(trainer, parts.get("optimizer", {}))  # none before the first step
    if trainer.scaler.is_enabled():
        scale = {name.removeprefix("scaler."): facts[name] for name in facts if name.startswith("scaler.")}
        trainer.scaler.load_state_dict(scale)
    trainer.step = int(facts["step"])
    trainer.knowledge = {name: str(facts[name]) for name in KNOWLEDGE if facts.get(name)}
    return facts


def _precision(trainer: Trainer) -> str:
    """What steps are computed in here, by now."""
    return device.precision_of(trainer.device, trainer.config.training.precision)


def _refuse_others(run: Path, facts: Facts, now: dict[str, str], data: DataConfig) -> None:
    """Raise `ConfigError` where a run was begun on other patients (see `loader.fingerprints`) than there are now."""
    then = {key: facts.get(key, value) for key, value in now.items()}
    if then.get("split") != now.get("split"):
        raise ConfigError(
            f"{run} was trained without fold {data.fold} of split {then['split']}, and {data.split} is {now['split']} "
            "now: it may have seen patients held out today. Give the old split, or another folder with -o"
        )
    for key, root in (("store", data.root), ("phantoms", data.phantoms)):
        if then.get(key) != now.get(key):
            raise ConfigError(
                f"{run} was trained on {root} as it was ({then[key]}), and it is {now[key]} now: cases were added, "
                "taken out or changed. Give another folder with -o"
            )


def stands(run: Path) -> bool:
    """Whether a run has a state, whole or not."""
    return bool(_there(run))


def _there(run: Path) -> list[Path]:
    """The states of a run, the newest first."""
    return [path for path in (run / STATE, checkpoint.previous(run / STATE)) if path.is_file()]


def _newest(run: Path, console: Console) -> tuple[Tensors, Facts, list[Path]]:
    """The newest state that is whole, and the damaged ones that are newer.

    Raises `ModelError` where there are states and all of them are damaged.
    """
    damaged: list[Path] = []
    for path in _there(run):
        try:
            return *checkpoint.read_state(path), damaged
        except ModelError as error:
            say(console, f"{error} It is set aside.", "red")
            damaged.append(path)
    if damaged:
        names = " and ".join(path.name for path in damaged)
        raise ModelError(f"{run}: {names} cannot be read; is the disk sound? Begin anew in another folder with -o")
    return {}, {}, []


def _resume_optimizer(trainer: Trainer, moments: Tensors) -> None:
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    state: dict[int, Tensors] = {}
    for key, tensor in moments.items():
        index, moment = key.split(".")
        like = parameters[int(index)]
        state.setdefault(int(index), {})[moment] = shared_out(tensor, like) if tensor.shape == like.shape else tensor
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": state})
