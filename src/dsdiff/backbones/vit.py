"""The vision transformer: x_t and the condition in patches, time added to every token, a linear head.

With `long_skips`, shallow tokens are joined to deep ones, as the levels of a UNet are.
Source: Dosovitskiy et al. 2021 (ViT, arXiv:2010.11929), Bao et al. 2023 (U-ViT, arXiv:2209.12152, fig. 1).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.layers.basic import run, zero_module
from dsdiff.layers.injection import TokenInjection
from dsdiff.layers.transformer_blocks import (
    PatchEmbed,
    TimestepEmbedder,
    TokenParams,
    TransformerBlock,
    learnt_positions,
    positions,
    unpatchify,
)
from dsdiff.types import Condition, ConditionLayout, Prediction


class ViTParams(TokenParams):
    """long_skips: the blocks before the middle are joined to those after it, from the outside inwards (U-ViT)."""

    long_skips: bool = False

    @property
    def skips(self) -> int:
        """How many long skips there are: a block in the middle has none across."""
        return (self.depth - 1) // 2 if self.long_skips else 0

    @property
    def doubts(self) -> tuple[str, ...]:
        if self.long_skips and not self.skips:
            return (f"long_skips joins no blocks: depth {self.depth} has no two on either side of a middle",)
        return ()


class VisionTransformer(nn.Module):
    """See the module. Starts at a zero output."""

    Params = ViTParams

    def __init__(self, params: ViTParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params, self.multiple = params, params.patch_size
        width = params.hidden_size
        self.x_embedder = PatchEmbed(1 + layout.channels, params.patch_size, width)
        self.t_embedder = TimestepEmbedder(width)
        self.pos_embed = learnt_positions(math.prod(params.grid), width)
        self.inject = TokenInjection(width, layout)
        self.blocks = nn.ModuleList(TransformerBlock(params) for _ in range(params.depth))
        self.skips = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(params.skips))
        self.norm = nn.LayerNorm(width)
        self.head = zero_module(nn.Linear(width, params.patch_size**2 * params.out_channels))

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        patch, (height, width) = self.params.patch_size, x_t.shape[-2:]
        grid = height // patch, width // patch
        placed = positions(self.pos_embed, self.params.grid, grid)
        tokens = self.inject(cond, self.x_embedder(torch.cat([x_t, cond.maps()], 1)) + placed, grid)  # b n e
        tokens = tokens + self.t_embedder(t)[:, None]
        shallow: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if shallow and i >= len(self.blocks) - len(self.skips):
                joined = torch.cat([tokens, shallow.pop()], -1)
                tokens = self.skips[len(self.blocks) - 1 - i](joined)
            tokens = run(block, tokens, use_checkpoint=self.params.use_checkpoint)
            if i < len(self.skips):
                shallow.append(tokens)
        return Prediction(unpatchify(self.head(self.norm(tokens)), height, patch).float())
