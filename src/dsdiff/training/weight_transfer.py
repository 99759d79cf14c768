"""Begin with the weights of a model folder, whose contrasts, slab or guidance may be others than this run's.

What a network reads is matched by name (a contrast's slice before the middle one, its edges, the style), never by
number. What is new begins at zero, so that the output is at first that of the old model. Heads of convolutional
networks of ours may gain channels, as the error that a network is asked to expect, and never lose any.
"""

from collections.abc import Hashable, Sequence, Set
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from dsdiff.conditioning.network import Network
from dsdiff.config.run import RunConfig
from dsdiff.data import splits
from dsdiff.data.dataset import Patient
from dsdiff.errors import ConfigError, ModelError
from dsdiff.inference import model as models
from dsdiff.inference.model import Model
from dsdiff.model import checkpoint
from dsdiff.qc import lineage as ancestors
from dsdiff.qc.lineage import PretrainingRecord
from dsdiff.types import ConditionLayout

Channels = list[Hashable]
# Begin as no change, or are read through channels that begin at zero.
FRESH = ("conditioner.", "backbone.inject.", "backbone.streams.inject.")
HEAD = "backbone.out."


def begin(network: Network, config: RunConfig, folder: Path) -> str:
    """Give a fresh network of this config the weights of a model folder; returns its ancestors, that model included.

    Raises `ModelError` for a folder that holds no model, and `ConfigError` where its network is another one.
    """
    model = models.load(folder, torch.device("cpu"))
    if not isinstance(model.network, Network):
        raise ModelError(
            f"{folder} is exported: it has no weights to begin with; give the model folder it was made from"
        )
    old, mine = model.network.state_dict(), network.state_dict()
    probe = _sketch(config, ("another", *config.data.contrasts), _other(config.data.context_slices))
    _check_contrasts(model.config, config, mine.keys() != probe.keys())
    layouts = _layout(model.config), _layout(config)
    fixed = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    before, now = model.config.conditioning, config.conditioning
    changed = {"edges"} if before.edges != now.edges else set[str]()
    if (before.encoder, before.encoder_params) != (now.encoder, now.encoder_params):
        changed |= {"common", "own", "encoded"}
    wrong = []
    for name, value in mine.items():
        there = old.get(name)
        given = None if there is None else _by_name(there, value, probe.get(name), *layouts, changed)
        if given is None and there is not None and name.startswith(HEAD):
            given = _grown(there, value)
        if given is not None:
            value.copy_(given)
        elif name not in fixed and not name.startswith(FRESH):
            wrong.append(name)
    if wrong:
        raise ConfigError(
            f"training.init_from {folder}: its network is another one ({len(wrong)} of {len(mine)} weights, as "
            f"{wrong[0]}, have no counterpart of their shape); take the backbone block of its config.yaml"
        )
    return ancestors.dump(_lineage(model, folder))


def refuse_seen(config: RunConfig, folder: Path, held_out: Sequence[Patient], console: Console) -> None:
    """Raise `ConfigError` where the model that a run begins with was trained on patients whom the run holds out; where
    nobody can tell, the console says so.
    """
    if config.data.split is None or not held_out:
        return
    lineage = _lineage(models.load(folder, torch.device("cpu")), folder)
    mine = (splits.read(config.data.split).hash, config.data.fold or 0)
    seen = [one.name for one in held_out if any(model.trained_on(one.measured, mine) for model in lineage)]
    if seen:
        raise ConfigError(
            f"training.init_from {folder} (or what it began with) was trained on patients whom this run holds out: "
            f"{', '.join(seen[:3])}"
            f"{' ...' * (len(seen) > 3)}. Begin with a model that was trained without them, or hold out others"
        )
    if not all(model.can_verify(mine) for model in lineage):
        console.print(
            f"nobody can tell whether training.init_from {folder} was trained on patients of fold {config.data.fold}: "
            "scores on those that it has seen mean nothing"
        )


def _lineage(model: Model, folder: Path) -> list[PretrainingRecord]:
    """A model's ancestors, and at the end itself."""
    facts = checkpoint.read(models.place(folder)).facts
    fold = (str(facts.get("split", "")), int(facts.get("fold", -1)))
    return [*model.ancestors, PretrainingRecord(fold, model.known)]


def _check_contrasts(old: RunConfig, config: RunConfig, streams: bool) -> None:
    """Raise `ConfigError` for other contrasts where a network averages over them: one more would change its output."""
    same = old.data.contrasts == config.data.contrasts
    if not same and (streams or old.conditioning.encoder != "none"):
        raise ConfigError(
            f"training.init_from was trained on {', '.join(old.data.contrasts)}, this run reads "
            f"{', '.join(config.data.contrasts)}: a network with an encoder for contrasts keeps those that it has"
        )


def _layout(config: RunConfig) -> ConditionLayout:
    return config.conditioning.layout(config.data.contrasts, config.data.context_slices)


def _sketch(config: RunConfig, contrasts: tuple[str, ...], slab: int) -> dict[str, Tensor]:
    """Weights, without numbers, of the same network for other conditions: those whose shape changes read conditions."""
    data = config.data.model_copy(update={"contrasts": contrasts, "context_slices": slab})
    return config.model_copy(update={"data": data}).sketch().state_dict()


def _by_name(
    there: Tensor,
    fresh: Tensor,
    probe: Tensor | None,
    old: ConditionLayout,
    new: ConditionLayout,
    changed: Set[str],
) -> Tensor | None:
    """Weights from one layout to another, None where they do not fit: those that read a condition, (out, channels k,
    ...) with k pixels folded into each channel, channel by channel, all others as they are.

    Which channels a layer reads is told by its width under both layouts and the probe's. changed: kinds of channels
    that carry something else than before, and begin at zero as new ones do.
    """
    if probe is not None and probe.shape != fresh.shape and fresh.ndim > 1:
        probed = replace(new, contrasts=("another", *new.contrasts), context_slices=_other(new.context_slices))
        for before, now, other in zip(*map(_channels, (old, new, probed)), strict=True):
            k = fresh.shape[1] // max(1, len(now))
            if k and [k * len(c) for c in (before, now, other)] == [w.shape[1] for w in (there, fresh, probe)]:
                mapped, given = torch.zeros_like(fresh).unflatten(1, (-1, k)), there.unflatten(1, (-1, k))
                for i, name in enumerate(now):
                    if name in before and (name[0] if isinstance(name, tuple) else name) not in changed:
                        mapped[:, i] = given[:, before.index(name)]
                return mapped.flatten(1, 2)
    return there if there.shape == fresh.shape else None


def _channels(layout: ConditionLayout) -> tuple[Channels, ...]:
    """What the channels carry that a layer may read: those of x_t and the maps, the guidance, or one contrast's, all of
    them or (the encoder) its slices."""
    return ["x_t", *layout.map_names], layout.guidance_names, layout.stream_names, [*layout.slices]


def _grown(there: Tensor, fresh: Tensor) -> Tensor | None:
    """Weights with rows of zero for the outputs added after the old ones, None where that is not the difference."""
    if len(fresh) <= len(there) or fresh.shape[1:] != there.shape[1:]:
        return None
    return torch.cat([there, torch.zeros_like(fresh[len(there) :])])


def _other(slab: int) -> int:
    return 5 if slab != 5 else 1
