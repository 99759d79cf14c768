"""Start a run from the weights of a model folder, also if its contrasts, context slices or guidance differ.

Input channels are matched by what they carry (a contrast's slice, its edges, the style), never by number. New channels
start at zero, so that the first output equals that of the old model. The output layer of a convolutional network of
dsdiff may gain channels, such as the predicted error, but never lose any.
"""

import logging
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dsdiff.conditioning.network import Network
from dsdiff.config.run import RunConfig
from dsdiff.data.dataset import TrainingPatient
from dsdiff.errors import ConfigError, ModelError
from dsdiff.inference.model import Model, load_model
from dsdiff.io import splits
from dsdiff.qc.lineage import PretrainingRecord
from dsdiff.types import Channel, ChannelKind, ConditionLayout

logger = logging.getLogger(__name__)

# These start as no change, or are read through channels that start at zero.
NEW_PREFIXES = ("conditioner.", "backbone.fusion.", "backbone.streams.fusion.")
OUTPUT_PREFIX = "backbone.out."
PROBE_CONTRAST = "another"  # a contrast that no config has


def init_weights_from(network: Network, config: RunConfig, folder: Path) -> tuple[PretrainingRecord, ...]:
    """Copy the weights of a model folder into a new network.

    Args:
        network: Network of `config`; its weights are changed.
        config: The new run.
        folder: Model folder to start from.

    Returns:
        Lineage of the new network: that of the model, and the model itself.

    Raises:
        ModelError: The folder holds no model, or an exported one.
        ConfigError: The networks do not match.
    """
    model = load_model(folder, torch.device("cpu"))
    if not isinstance(model.network, Network):
        raise ModelError(f"{folder} is exported and has no weights to start from; give the model folder itself")

    new_weights, old_weights = network.state_dict(), model.network.state_dict()
    mapping = _WeightMapping.between(model.config, config)
    _check_contrasts(model.config, config, has_streams=new_weights.keys() != mapping.probe_weights.keys())

    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    unmatched = []
    for name, new_weight in new_weights.items():
        mapped = mapping.map_weight(name, old_weights.get(name), new_weight)
        if mapped is not None:
            new_weight.copy_(mapped)
        elif name not in frozen and not name.startswith(NEW_PREFIXES):
            unmatched.append(name)

    if unmatched:
        raise ConfigError(
            f"training.init_from {folder}: its network does not match this run's; {len(unmatched)} of "
            f"{len(new_weights)} weights, such as {unmatched[0]}, have no counterpart of the same shape; use the "
            "backbone block of its config.yaml"
        )
    return _lineage_of(model)


def check_leakage(config: RunConfig, folder: Path, held_out: Sequence[TrainingPatient]) -> None:
    """Check that the model to start from was not trained on held-out patients; warn if that cannot be verified.

    Args:
        config: The new run.
        folder: Model folder to start from.
        held_out: Patients of the held-out fold.

    Raises:
        ConfigError: A held-out patient was in the training set of the model or of its lineage.
    """
    if config.data.split is None or not held_out:
        return

    lineage = _lineage_of(load_model(folder, torch.device("cpu")))
    fold = (splits.read(config.data.split).hash, config.data.fold or 0)
    leaked = [
        patient.name for patient in held_out if any(record.trained_on(patient.features, fold) for record in lineage)
    ]
    if leaked:
        ellipsis = " ..." if len(leaked) > 3 else ""
        raise ConfigError(
            f"training.init_from {folder} (or a model that it started from) was trained on held-out patients: "
            f"{', '.join(leaked[:3])}{ellipsis}; start from a model that was trained without them, or hold out others"
        )

    if not all(record.can_verify(fold) for record in lineage):
        logger.warning(
            f"cannot verify that training.init_from {folder} was trained without fold {config.data.fold}; validation "
            "scores may be inflated by leakage"
        )


def _lineage_of(model: Model) -> tuple[PretrainingRecord, ...]:
    """Lineage of a network that starts from a model: that of the model, and the model itself."""
    metadata = model.metadata

    return (*metadata.lineage, PretrainingRecord(metadata.held_out_fold, metadata.patient_index))


def _check_contrasts(old: RunConfig, new: RunConfig, has_streams: bool) -> None:
    """Check that the contrasts are the same if a network averages over them: another one would change its output.

    Raises:
        ConfigError: They differ.
    """
    is_same = old.data.contrasts == new.data.contrasts
    if not is_same and (has_streams or old.conditioning.encoder != "none"):
        raise ConfigError(
            f"training.init_from was trained on {', '.join(old.data.contrasts)}, but this run reads "
            f"{', '.join(new.data.contrasts)}; a network that encodes each contrast must keep its contrasts"
        )


@dataclass(frozen=True)
class _WeightMapping:
    """How weights of one condition layout become weights of another.

    Attributes:
        old_layout, new_layout: What the networks read.
        probe_layout: A layout with one more contrast and other context slices; it tells which layers read conditions.
        probe_weights: Weights of the new network for `probe_layout`, without memory.
        changed: Kinds of channels whose content differs; they start at zero, as new ones do.
    """

    old_layout: ConditionLayout
    new_layout: ConditionLayout
    probe_layout: ConditionLayout
    probe_weights: dict[str, Tensor]
    changed: Set[ChannelKind]

    @classmethod
    def between(cls, old: RunConfig, new: RunConfig) -> "_WeightMapping":
        """Compare two configs."""
        context_slices = 5 if new.data.context_slices != 5 else 1
        contrasts = (PROBE_CONTRAST, *new.data.contrasts)
        probe_data = new.data.model_copy(update={"contrasts": contrasts, "context_slices": context_slices})
        new_layout = _layout_of(new)

        return cls(
            old_layout=_layout_of(old),
            new_layout=new_layout,
            probe_layout=replace(new_layout, contrasts=contrasts, context_slices=context_slices),
            probe_weights=new.model_copy(update={"data": probe_data}).meta_network().state_dict(),
            changed=_changed_channels(old, new),
        )

    def map_weight(self, name: str, old: Tensor | None, new: Tensor) -> Tensor | None:
        """Map one weight; None if it has no counterpart."""
        if old is None:
            return None

        mapped = self._map_channels(old, new, self.probe_weights.get(name))
        if mapped is None and old.shape == new.shape:
            mapped = old
        if mapped is None and name.startswith(OUTPUT_PREFIX):
            mapped = _append_outputs(old, new)

        return mapped

    def _map_channels(self, old: Tensor, new: Tensor, probe: Tensor | None) -> Tensor | None:
        """Map a weight (out, channels x k, ...) that reads a condition, channel by channel; k pixels are one channel.

        A weight reads a condition if its shape differs from the probe's. The width under all three layouts tells which
        channels it reads. None if it reads no condition.
        """
        if probe is None or probe.shape == new.shape or new.ndim <= 1:
            return None

        widths = [weight.shape[1] for weight in (old, new, probe)]
        layouts = (self.old_layout, self.new_layout, self.probe_layout)
        for old_channels, new_channels, probe_channels in zip(*map(_channel_lists, layouts), strict=True):
            k = new.shape[1] // max(1, len(new_channels))
            if not k or [k * len(channels) for channels in (old_channels, new_channels, probe_channels)] != widths:
                continue

            mapped = torch.zeros_like(new).unflatten(1, (-1, k))
            old_by_channel = old.unflatten(1, (-1, k))
            for index, channel in enumerate(new_channels):
                if channel in old_channels and channel.kind not in self.changed:
                    mapped[:, index] = old_by_channel[:, old_channels.index(channel)]
            return mapped.flatten(1, 2)

        return None


def _layout_of(config: RunConfig) -> ConditionLayout:
    return config.conditioning.layout(config.data.contrasts, config.data.context_slices)


def _changed_channels(old: RunConfig, new: RunConfig) -> set[ChannelKind]:
    """Kinds of channels that another edge filter or encoder computes."""
    changed: set[ChannelKind] = set()
    if old.conditioning.edges != new.conditioning.edges:
        changed.add("edges")

    old_encoder = (old.conditioning.encoder, old.conditioning.encoder_params)
    new_encoder = (new.conditioning.encoder, new.conditioning.encoder_params)
    if old_encoder != new_encoder:
        changed.update(("shared", "specific"))

    return changed


def _channel_lists(layout: ConditionLayout) -> tuple[list[Channel], ...]:
    """Channels that a layer may read: x_t and maps; guidance; one contrast's; one contrast's slices (the encoder)."""
    return (
        [Channel("x_t"), *layout.map_channels],
        layout.guidance_channels,
        layout.stream_channels,
        layout.source_channels(),
    )


def _append_outputs(old: Tensor, new: Tensor) -> Tensor | None:
    """Append rows of zeros for new outputs; None if the weights differ otherwise."""
    if len(new) <= len(old) or new.shape[1:] != old.shape[1:]:
        return None

    return torch.cat([old, torch.zeros_like(new[len(old) :])])
