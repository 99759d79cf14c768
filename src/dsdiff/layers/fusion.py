"""Fusion of guidance inside a network: `Condition.guidance` at the scale of the features that it changes.

With `conditioning.fusion: concat` these modules have no weights and change nothing.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.layers.primitives import zero_module
from dsdiff.types import Condition, ConditionLayout


class Spade(nn.Module):
    """Scales and shifts features pixel by pixel as a function of the guidance. Starts as the identity.

    Source: Park et al. 2019 (SPADE, arXiv:1903.07291, eq. 1), without its norm: the blocks have their own.

    Args:
        guidance_channels: Channels of the guidance.
        channels: Channels of the features.
        hidden: Hidden channels.
    """

    def __init__(self, guidance_channels: int, channels: int, hidden: int = 32) -> None:
        super().__init__()
        scale_and_shift = zero_module(nn.Conv2d(hidden, 2 * channels, 1))
        self.read = nn.Sequential(nn.Conv2d(guidance_channels, hidden, 3, padding=1), nn.SiLU(), scale_and_shift)

    def forward(self, h: Float[Tensor, "b c h w"], guidance: Float[Tensor, "b g h w"]) -> Float[Tensor, "b c h w"]:
        """Modulate features.

        Args:
            h: Features.
            guidance: Guidance of the same size.

        Returns:
            Features of the same shape.
        """
        scale, shift = self.read(guidance).chunk(2, 1)  # b c h w
        return h * (1 + scale) + shift


class SpadeFusion(nn.Module):
    """A SPADE after some blocks of an encoder.

    Args:
        channels: Channels after each of these blocks, by the number of the block.
        layout: The channels of the condition.
    """

    def __init__(self, channels: Mapping[int, int], layout: ConditionLayout) -> None:
        super().__init__()
        self.spades = nn.ModuleDict()
        if layout.fused_channels:
            for i, width in channels.items():
                self.spades[str(i)] = Spade(len(layout.fused_channels), width)

    def forward(self, cond: Condition, i: int, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Modulate the features after block i.

        Args:
            cond: The condition.
            i: Number of the block.
            h: Its features.

        Returns:
            Features of the same shape; the same features if block i has no SPADE.
        """
        if str(i) not in self.spades:
            return h
        guidance = cond.guidance((h.shape[-2], h.shape[-1])).type(h.dtype)  # b g h w
        return self.spades[str(i)](h, guidance)


class TokenFusion(nn.Module):
    """Adds guidance to the tokens of the patches in which it lies. Starts as zero.

    Args:
        hidden_size: Features of a token.
        layout: The channels of the condition.
    """

    def __init__(self, hidden_size: int, layout: ConditionLayout) -> None:
        super().__init__()
        self.read = None
        if layout.fused_channels:
            self.read = zero_module(nn.Linear(len(layout.fused_channels), hidden_size))

    def forward(self, cond: Condition, tokens: Float[Tensor, "b n e"], grid: tuple[int, int]) -> Float[Tensor, "b n e"]:
        """Add guidance.

        Args:
            cond: The condition.
            tokens: One per patch, row by row.
            grid: Number of patches along h and w.

        Returns:
            Tokens of the same shape.
        """
        if self.read is None:
            return tokens
        guidance = cond.guidance(grid).flatten(2).transpose(1, 2)  # b n g
        return tokens + self.read(guidance.type(tokens.dtype))
