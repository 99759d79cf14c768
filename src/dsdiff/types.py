"""What flows between the rooms: Condition, Prediction and the Backbone protocol.

Axis letters: b batch, s source contrast, d neighbouring slice (the slab), c channel, h w in-plane, x y z voxel, k step.
In a slice h runs from the patient's left to right and w from posterior to anterior.
"""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class ConditionLayout:
    """What a `Condition` will hold, known before there is one: it decides how wide a network's input is.

    contrasts: names of the sources, in their order. slab: slices of each. structure: whether there are edge maps.
    """

    contrasts: tuple[str, ...]
    slab: int = 1
    structure: bool = False

    @property
    def stream_channels(self) -> int:
        """Maps of one contrast: see `Condition.stream`."""
        return self.slab + int(self.structure)

    @property
    def channels(self) -> int:
        """Maps of all contrasts together: see `Condition.maps`."""
        return len(self.contrasts) * self.stream_channels


@dataclass(frozen=True)
class Condition:
    """What the network may know of a slice. It depends on the inputs alone, never on x_t or t.

    sources:   robust z-scores of every source contrast in the slice and its neighbours, the slice itself in the middle.
    present:   which contrasts this case has; code branches on it, never on values.
    structure: one edge map per contrast, or None when structure guidance is off.

    Networks read it through `maps` or `stream`, where an absent contrast is zero whatever was put in its place: no
    contrast that is there is zero all over the brain, so a network can tell.
    """

    sources: Float[Tensor, "b s d h w"]
    present: Bool[Tensor, "b s"]
    structure: Float[Tensor, "b s h w"] | None = None

    def maps(self) -> Float[Tensor, "b c h w"]:
        """Everything that has the slice's shape, as channels: sources (contrast by contrast), then structure."""
        there = self.present[:, :, None, None]  # b s 1 1
        stacked = self.sources.where(there[..., None], 0).flatten(1, 2)  # b (s d) h w
        return stacked if self.structure is None else torch.cat([stacked, self.structure.where(there, 0)], 1)

    def stream(self, contrast: int) -> Float[Tensor, "b c h w"]:
        """What there is of one contrast: its slices, then its edge map."""
        there = self.present[:, contrast, None, None, None]  # b 1 1 1
        source = self.sources[:, contrast].where(there, 0)  # b d h w
        if self.structure is None:
            return source
        return torch.cat([source, self.structure[:, contrast, None].where(there, 0)], 1)


@dataclass(frozen=True)
class Prediction:
    """`value` is the only thing samplers see; `features` serve auxiliary losses."""

    value: Float[Tensor, "b c h w"]
    features: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Backbone(Protocol):
    """A denoising network. It knows nothing of schedules, losses, slices or files.

    `t` is on the scale of the field's integer timesteps: 0 to 1000, or to T - 1 for a DDPM of T; not always whole.
    """

    multiple: int  # h and w must be multiples of this

    def __call__(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction: ...
