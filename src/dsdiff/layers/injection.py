"""Guidance inside a network: what `Condition.guidance` says at the scale of the features that it changes.

Used with `conditioning.fusion: spade`; without, these modules have no weights and change nothing.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.layers.basic import zero_module
from dsdiff.types import Condition, ConditionLayout


class Spade(nn.Module):
    """Features scaled and shifted pixel by pixel as the guidance says; starts as the identity.

    Source: Park et al. 2019 (SPADE, arXiv:1903.07291, eq. 1), without its norm: the blocks bring theirs.
    """

    def __init__(self, guidance: int, channels: int, hidden: int = 32) -> None:
        super().__init__()
        last = zero_module(nn.Conv2d(hidden, 2 * channels, 1))
        self.read = nn.Sequential(nn.Conv2d(guidance, hidden, 3, padding=1), nn.SiLU(), last)

    def forward(self, h: Float[Tensor, "b c h w"], guidance: Float[Tensor, "b g h w"]) -> Float[Tensor, "b c h w"]:
        scale, shift = self.read(guidance).chunk(2, 1)
        return h * (1 + scale) + shift


class Injection(nn.Module):
    """A SPADE after some blocks: `channels` gives the width after each of them by its number."""

    def __init__(self, channels: Mapping[int, int], layout: ConditionLayout) -> None:
        super().__init__()
        spades = {str(i): Spade(layout.injected, width) for i, width in channels.items()} if layout.injected else {}
        self.spades = nn.ModuleDict(spades)

    def forward(self, cond: Condition, i: int, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if str(i) not in self.spades:
            return h
        return self.spades[str(i)](h, cond.guidance((h.shape[-2], h.shape[-1])).type(h.dtype))


class TokenInjection(nn.Module):
    """Guidance added to the tokens of the patches where it lies; starts as nothing."""

    def __init__(self, hidden_size: int, layout: ConditionLayout) -> None:
        super().__init__()
        self.read = zero_module(nn.Linear(layout.injected, hidden_size)) if layout.injected else None

    def forward(self, cond: Condition, tokens: Float[Tensor, "b n e"], grid: tuple[int, int]) -> Float[Tensor, "b n e"]:
        if self.read is None:
            return tokens
        return tokens + self.read(cond.guidance(grid).flatten(2).transpose(1, 2).type(tokens.dtype))
