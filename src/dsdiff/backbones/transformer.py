"""The plain transformer: patches of x_t and of every contrast are tokens of one sequence, and time is a token too.

Attention alone brings the images together: nothing is concatenated as channels. Each image's tokens carry the position
of their patch and which image they are of; the output is read off the tokens of x_t.
Source: Vaswani et al. 2017 (arXiv:1706.03762), patches and positions after Dosovitskiy et al. 2021 (arXiv:2010.11929).
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


class Transformer(nn.Module):
    """See the module. Starts at a zero output."""

    Params = TokenParams

    def __init__(self, params: TokenParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params, self.multiple = params, params.patch_size
        width, patch = params.hidden_size, params.patch_size
        self.x_embedder = PatchEmbed(1, patch, width)
        self.source_embedders = nn.ModuleList(
            PatchEmbed(layout.stream_channels, patch, width) for _ in layout.contrasts
        )
        self.t_embedder = TimestepEmbedder(width)
        self.pos_embed = learnt_positions(math.prod(params.grid), width)
        self.image_embed = learnt_positions(1 + len(layout.contrasts), width)
        self.inject = TokenInjection(width, layout)
        self.blocks = nn.ModuleList(TransformerBlock(params) for _ in range(params.depth))
        self.norm = nn.LayerNorm(width)
        self.head = zero_module(nn.Linear(width, patch**2 * params.out_channels))

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        patch, (height, width) = self.params.patch_size, x_t.shape[-2:]
        grid = height // patch, width // patch
        placed = positions(self.pos_embed, self.params.grid, grid)
        images = [self.inject(cond, self.x_embedder(x_t), grid)]
        images += [embed(cond.stream(i)) for i, embed in enumerate(self.source_embedders)]
        marked = [image + placed + self.image_embed[:, i, None] for i, image in enumerate(images)]
        tokens = torch.cat([*marked, self.t_embedder(t)[:, None]], 1)  # b (images n + 1) e
        for block in self.blocks:
            tokens = run(block, tokens, use_checkpoint=self.params.use_checkpoint)
        own = tokens[:, : placed.shape[1]]
        return Prediction(unpatchify(self.head(self.norm(own)), height, patch).float())
