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
class Condition:
    """What the network may know of a slice. It depends on the inputs alone, never on x_t or t.

    sources:   robust z-scores of every source contrast in the slice and its neighbours, the slice itself in the middle.
    present:   which contrasts this case has; code branches on it, never on values.
    structure: one edge map per contrast, or None when structure guidance is off.
    """

    sources: Float[Tensor, "b s d h w"]
    present: Bool[Tensor, "b s"]
    structure: Float[Tensor, "b s h w"] | None = None

    def maps(self) -> Float[Tensor, "b c h w"]:
        """Everything that has the slice's shape, as channels: sources (contrast by contrast), then structure."""
        stacked = self.sources.flatten(1, 2)  # b (s d) h w
        return stacked if self.structure is None else torch.cat([stacked, self.structure], 1)


@dataclass(frozen=True)
class Prediction:
    """`value` is the only thing samplers see; `features` serve auxiliary losses."""

    value: Float[Tensor, "b c h w"]
    features: dict[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Backbone(Protocol):
    """A denoising network. It knows nothing of schedules, losses, slices or files.

    `t` is on the scale of the field's integer timesteps, 0 to 1000, and need not be an integer.
    """

    multiple: int  # h and w must be multiples of this

    def __call__(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction: ...
