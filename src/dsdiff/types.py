"""What flows between the rooms: Condition, Prediction and the Backbone protocol.

Axis letters: b batch, s source contrast, d neighbouring slice (the slab), c channel, h w in-plane, x y z voxel, k step.
In an axial slice h is x, from the patient's left to right, and w is y, from posterior to anterior; h, w of a coronal
slice are x, z and of a sagittal one z, y.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Fusion = Literal["concat", "spade"]


@dataclass(frozen=True)
class ConditionLayout:
    """What a `Condition` will hold, known before there is one: it decides how wide a network's input is.

    contrasts: names of the sources, in their order. slab: slices of each. structure: whether there are edge maps.
    encoded: channels of what the encoder finds common, and of what it finds of each contrast; 0 without an encoder.
    style: whether there is an image of the target's style. inject: see `Condition`.
    """

    contrasts: tuple[str, ...]
    context_slices: int = 1
    edges: bool = False
    encoded: int = 0
    style: bool = False
    fusion: Fusion = "concat"

    @property
    def map_names(self) -> list[Hashable]:
        """What the channels of `Condition.maps` carry: slices of contrasts (0 is the middle one), guidance, style."""
        sources: list[Hashable] = [(contrast, z) for contrast in self.contrasts for z in self.slices]
        return sources + (self.guidance_names if self.fusion == "concat" else []) + self._style_names

    @property
    def stream_names(self) -> list[Hashable]:
        """What the channels of `Condition.stream` carry, whichever contrast it is of."""
        told: list[Hashable] = [*self.slices]
        if self.fusion == "concat":
            told += ["edges"] * self.edges
            told += [(whose, i) for whose in ("common", "own") for i in range(self.encoded)]
        return told + self._style_names

    @property
    def guidance_names(self) -> list[Hashable]:
        """What the channels of `Condition.guidance` carry."""
        edges = [("edges", contrast) for contrast in self.contrasts] * self.edges
        return [*edges, *(("encoded", whose, i) for whose in ("common", *self.contrasts) for i in range(self.encoded))]

    @property
    def slices(self) -> range:
        """The slices that are read, by their distance from the middle one."""
        return range(-(self.context_slices // 2), self.context_slices // 2 + 1)

    @property
    def _style_names(self) -> list[Hashable]:
        return ["style"] * self.style

    @property
    def channels(self) -> int:
        """Of `Condition.maps`."""
        return len(self.map_names)

    @property
    def stream_channels(self) -> int:
        """Of `Condition.stream`."""
        return len(self.stream_names)

    @property
    def guidance(self) -> int:
        """Channels of `Condition.guidance`."""
        return len(self.guidance_names)

    @property
    def injected(self) -> int:
        """Of these, how many enter inside the network rather than beside x_t."""
        return self.guidance if self.fusion == "spade" else 0


@dataclass(frozen=True)
class Encoded:
    """What the condition encoder made of the sources, scale by scale, the finest first.

    shared: what every contrast says of the anatomy; specific: what it says of itself; common: the mean of shared over
    the contrasts that are there. What an absent contrast would say is zero.
    """

    shared: tuple[Float[Tensor, "b s c _ _"], ...]
    specific: tuple[Float[Tensor, "b s c _ _"], ...]
    common: tuple[Float[Tensor, "b c _ _"], ...]

    def at(self, size: tuple[int, int]) -> list[Float[Tensor, "b c _ _"]]:
        """What is common, then what is each contrast's own, at a size: the sum over the scales.

        Source: the sum of resized levels of Kirillov et al. 2019 (panoptic FPN, arXiv:1901.02446, section 3.1).
        """
        levels = zip(self.common, self.specific, strict=True)
        summed = sum(resized(torch.cat([one, own.flatten(1, 2)], 1), size) for one, own in levels)
        assert isinstance(summed, Tensor)
        return list(summed.split(self.common[0].shape[1], 1))


@dataclass(frozen=True)
class Condition:
    """What the network may know of a slice. It depends on the inputs alone, never on x_t or t.

    sources:   robust z-scores of every source contrast in the slice and its neighbours, the slice itself in the middle.
    present:   which contrasts this case has; code branches on it, never on values.
    structure: one edge map per contrast, or None when structure guidance is off.
    encoded:   what the condition encoder made of the sources, or None without one.
    style:     the slice as the style of the target would have it without agent, or None when style is not told.
    inject:    whether structure and encoded are channels beside x_t ("concat") or enter at every scale ("spade").

    Networks read it through `maps` or `stream`, and `guidance` at their scales, where an absent contrast is zero
    whatever was put in its place: no contrast that is there is zero all over the brain, so a network can tell.
    """

    sources: Float[Tensor, "b s d h w"]
    present: Bool[Tensor, "b s"]
    edges: Float[Tensor, "b s h w"] | None = None
    encoded: Encoded | None = None
    style: Float[Tensor, "b 1 h w"] | None = None
    fusion: Fusion = "concat"

    @property
    def known(self) -> Float[Tensor, "b s d h w"]:
        """The sources, an absent one zero."""
        return self.sources.where(self.present[:, :, None, None, None], 0)

    def maps(self) -> Float[Tensor, "b c h w"]:
        """Everything that has the slice's shape, as channels: sources (contrast by contrast), guidance, style."""
        stacked = [self.known.flatten(1, 2)]  # b (s d) h w
        if self.fusion == "concat":
            stacked += self._guidance(self._size)
        return torch.cat([*stacked, *self._style()], 1)

    def stream(self, contrast: int) -> Float[Tensor, "b c h w"]:
        """What there is of one contrast: its slices, edge map, what all have in common, what is its own; style."""
        there = self.present[:, contrast, None, None, None]  # b 1 1 1
        stacked = [self.known[:, contrast]]  # b d h w
        if self.fusion == "concat" and self.edges is not None:
            stacked.append(self.edges[:, contrast, None].where(there, 0))
        if self.fusion == "concat" and self.encoded is not None:
            common, *specific = self.encoded.at(self._size)
            stacked += [common, specific[contrast]]
        return torch.cat([*stacked, *self._style()], 1)

    def guidance(self, size: tuple[int, int]) -> Float[Tensor, "b c _ _"]:
        """Structure and encoded maps at a size: edge maps, what is common, what is each contrast's own."""
        return torch.cat(self._guidance(size), 1)

    def _guidance(self, size: tuple[int, int]) -> list[Tensor]:
        told = []
        if self.edges is not None:
            told.append(resized(self.edges.where(self.present[:, :, None, None], 0), size))
        if self.encoded is not None:
            told += self.encoded.at(size)
        return told

    def _style(self) -> list[Tensor]:
        return [] if self.style is None else [self.style]

    @property
    def _size(self) -> tuple[int, int]:
        return self.sources.shape[-2], self.sources.shape[-1]


def resized(maps: Float[Tensor, "b c _ _"], size: tuple[int, int]) -> Float[Tensor, "b c _ _"]:
    """Maps at another size: means over areas where it is smaller, bilinear where it is larger."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    if size[1] < maps.shape[-1]:
        return F.interpolate(maps, size, mode="area")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


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
