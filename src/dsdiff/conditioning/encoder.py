"""The condition encoder: every contrast through one small pyramid that knows no time, once per slice.

From each contrast it reads shared and specific maps at several scales. Nothing makes the first anatomy and the second
contrast but the losses of `disentangle`; whether they did is what `dsdiff probe` measures.
Source: the top-down pathway of Lin et al. 2017 (FPN, arXiv:1612.03144, section 3).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from dsdiff.schema import ConfigModel
from dsdiff.types import Encoded

GROUPS = 8


class EncoderParams(ConfigModel):
    """channels: of the shared and of the specific maps, at every scale. scales: how many, each half the one before.
    stem: folds stem x stem pixels into channels first, so that the finest maps are that much smaller than the slice.
    """

    channels: int = Field(8, ge=GROUPS, multiple_of=GROUPS)
    scales: int = Field(3, ge=1)
    stem: int = Field(2, ge=1)

    @property
    def multiple(self) -> int:
        """What the sides of a slice must be multiples of."""
        return self.stem * 2 ** (self.scales - 1)


class Block(nn.Module):
    """Two convolutions on normalised features, added to them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = [nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.layers(x)


class Pyramid(nn.Module):
    """One contrast to its shared and specific maps, the finest scale first."""

    def __init__(self, slab: int, params: EncoderParams) -> None:
        super().__init__()
        width = 2 * params.channels
        self.unshuffle = nn.PixelUnshuffle(params.stem)
        self.enter = nn.Conv2d(slab * params.stem**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(params.scales))
        self.lateral = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(params.scales - 1))
        self.heads = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(params.scales))

    def forward(
        self, image: Float[Tensor, "b d h w"], contrast: Float[Tensor, " c"]
    ) -> list[tuple[Float[Tensor, "b c2 _ _"], Float[Tensor, "b c2 _ _"]]]:
        h = self.enter(self.unshuffle(image)) + contrast[:, None, None]
        features = []
        for i, block in enumerate(self.blocks):
            h = block(F.avg_pool2d(h, 2) if i else h)
            features.append(h)
        down = [features.pop()]
        for lateral in reversed(self.lateral):
            above = F.interpolate(down[0], scale_factor=2, mode="nearest")
            down.insert(0, lateral(features.pop()) + above)
        halves = [head(feature).chunk(2, 1) for head, feature in zip(self.heads, down, strict=True)]
        return [(shared, specific) for shared, specific in halves]


class ConditionEncoder(nn.Module):
    """See the module. One pyramid serves all contrasts, told apart by an embedding, or each has its own."""

    def __init__(self, contrasts: int, slab: int, params: EncoderParams, per_contrast: bool) -> None:
        super().__init__()
        self.pyramids = nn.ModuleList(Pyramid(slab, params) for _ in range(contrasts if per_contrast else 1))
        self.contrast = nn.Parameter(0.1 * torch.randn(contrasts, 2 * params.channels))

    def forward(self, sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]) -> Encoded:
        read = [
            self.pyramids[i % len(self.pyramids)](sources[:, i], embedding) for i, embedding in enumerate(self.contrast)
        ]
        shared, specific = [], []
        for scale in zip(*read, strict=True):
            shared.append(_masked([one for one, _ in scale], present))
            specific.append(_masked([other for _, other in scale], present))
        return Encoded(tuple(shared), tuple(specific), tuple(mean(maps, present) for maps in shared))


def _masked(maps: Sequence[Tensor], present: Tensor) -> Float[Tensor, "b s c h w"]:
    return torch.stack(list(maps), 1) * present[:, :, None, None, None]


def mean(features: Float[Tensor, "b s c h w"], there: Bool[Tensor, "b s"]) -> Float[Tensor, "b c h w"]:
    """Mean over the contrasts (or streams) that are there; zero where none is."""
    weights = there / there.sum(1, keepdim=True).clamp(min=1)  # b s
    return (features * weights[:, :, None, None, None].type(features.dtype)).sum(1)
