"""The condition encoder: one small feature pyramid per contrast. It does not depend on time and runs once per slice.

It computes shared and specific features of each contrast at several scales. Only the losses of `disentangle` make the
shared features describe anatomy and the specific ones describe contrast; `dsdiff probe` measures whether they do.
Source: the top-down pathway of Lin et al. 2017 (FPN, arXiv:1612.03144, section 3).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from dsdiff.schema import ConfigModel
from dsdiff.types import EncoderFeatures

GROUPS = 8  # of every group norm


class EncoderParams(ConfigModel):
    """Size of the condition encoder.

    Attributes:
        channels: Shared features, and as many specific features, at every scale.
        scales: Number of scales, each half the size of the one before.
        stem: Folds stem x stem pixels into channels first, so the finest features are that much smaller than the slice.
    """

    channels: int = Field(8, ge=GROUPS, multiple_of=GROUPS)
    scales: int = Field(3, ge=1)
    stem: int = Field(2, ge=1)

    @property
    def multiple(self) -> int:
        """The number that height and width of a slice must be multiples of.

        Returns:
            The downsampling factor of the coarsest scale.
        """
        return self.stem * 2 ** (self.scales - 1)


class Block(nn.Module):
    """A residual block: two convolutions on normalized features.

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = [nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Run the block.

        Args:
            x: Features.

        Returns:
            Features of the same shape.
        """
        return x + self.layers(x)


class Pyramid(nn.Module):
    """The feature pyramid of one contrast.

    Args:
        context_slices: Slices of the contrast.
        params: Size of the encoder.
    """

    def __init__(self, context_slices: int, params: EncoderParams) -> None:
        super().__init__()
        width = 2 * params.channels
        self.unshuffle = nn.PixelUnshuffle(params.stem)
        self.enter = nn.Conv2d(context_slices * params.stem**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(params.scales))
        self.lateral = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(params.scales - 1))
        self.heads = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(params.scales))

    def forward(
        self, image: Float[Tensor, "b d h w"], contrast_embedding: Float[Tensor, " c"]
    ) -> list[tuple[Float[Tensor, "b c2 _ _"], Float[Tensor, "b c2 _ _"]]]:
        """Compute shared and specific features.

        Args:
            image: Slices of the contrast, robust z-scores.
            contrast_embedding: A vector that names the contrast.

        Returns:
            A pair per scale, the finest first.
        """
        h = self.enter(self.unshuffle(image)) + contrast_embedding[:, None, None]  # b c h/stem w/stem
        bottom_up = []
        for i, block in enumerate(self.blocks):
            h = block(F.avg_pool2d(h, 2) if i else h)
            bottom_up.append(h)

        top_down = [bottom_up.pop()]
        for lateral in reversed(self.lateral):
            coarser = F.interpolate(top_down[0], scale_factor=2, mode="nearest")
            top_down.insert(0, lateral(bottom_up.pop()) + coarser)

        pairs = []
        for head, features in zip(self.heads, top_down, strict=True):
            shared, specific = head(features).chunk(2, 1)
            pairs.append((shared, specific))
        return pairs


class ConditionEncoder(nn.Module):
    """The condition encoder of all contrasts.

    Args:
        n_contrasts: Number of contrasts.
        context_slices: Slices of each.
        params: Size of the encoder.
        per_contrast: Whether each contrast has its own pyramid. Otherwise one pyramid serves all, and an embedding
            tells it which contrast it reads.
    """

    def __init__(self, n_contrasts: int, context_slices: int, params: EncoderParams, per_contrast: bool) -> None:
        super().__init__()
        n_pyramids = n_contrasts if per_contrast else 1
        self.pyramids = nn.ModuleList(Pyramid(context_slices, params) for _ in range(n_pyramids))
        self.contrast = nn.Parameter(0.1 * torch.randn(n_contrasts, 2 * params.channels))

    def forward(self, sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]) -> EncoderFeatures:
        """Encode the sources.

        Args:
            sources: Robust z-scores, absent contrasts zero.
            present: The contrasts that each case has.

        Returns:
            Features of all contrasts.
        """
        pairs_by_contrast = []
        for i, embedding in enumerate(self.contrast):
            pyramid = self.pyramids[i % len(self.pyramids)]
            pairs_by_contrast.append(pyramid(sources[:, i], embedding))

        shared, specific = [], []
        for pairs in zip(*pairs_by_contrast, strict=True):  # scale by scale
            shared.append(_stack_present([pair[0] for pair in pairs], present))
            specific.append(_stack_present([pair[1] for pair in pairs], present))
        shared_mean = tuple(mean_over_present(maps, present) for maps in shared)

        return EncoderFeatures(tuple(shared), tuple(specific), shared_mean)


def _stack_present(maps: Sequence[Tensor], present: Bool[Tensor, "b s"]) -> Float[Tensor, "b s c h w"]:
    """Stack the features of all contrasts, absent ones zero."""
    return torch.stack(list(maps), 1) * present[:, :, None, None, None]


def mean_over_present(features: Float[Tensor, "b s c h w"], present: Bool[Tensor, "b s"]) -> Float[Tensor, "b c h w"]:
    """Average features over the contrasts (or streams) that are present.

    Args:
        features: Features of every contrast.
        present: The contrasts that each case has.

    Returns:
        The mean; zero if no contrast is present.
    """
    weights = present / present.sum(1, keepdim=True).clamp(min=1)  # b s
    return (features * weights[:, :, None, None, None].type(features.dtype)).sum(1)
