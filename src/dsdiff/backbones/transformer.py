"""The plain transformer: patches of x_t and of every contrast are tokens of one sequence, and time is a token too.

Only attention brings the images together: no image is concatenated as a channel. Each token carries the position of its
patch and an embedding of its image. The output comes from the tokens of x_t.
Source: Vaswani et al. 2017 (arXiv:1706.03762), patches and positions after Dosovitskiy et al. 2021 (arXiv:2010.11929).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.layers.fusion import TokenFusion
from dsdiff.layers.primitives import maybe_checkpoint, zero_module
from dsdiff.layers.transformer_blocks import (
    PatchEmbed,
    TimestepEmbedder,
    TransformerBlock,
    TransformerParams,
    interpolate_positions,
    learned_positions,
    unpatchify,
)
from dsdiff.types import Condition, ConditionLayout, Prediction


class Transformer(nn.Module):
    """The plain transformer. Its output starts at zero.

    Args:
        params: Size of the network.
        layout: The channels of the condition.
    """

    Params = TransformerParams

    def __init__(self, params: TransformerParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params = params
        self.multiple = params.patch_size
        hidden_size, patch_size = params.hidden_size, params.patch_size
        self.x_embedder = PatchEmbed(1, patch_size, hidden_size)
        self.source_embedders = nn.ModuleList(
            PatchEmbed(len(layout.stream_channels), patch_size, hidden_size) for _ in layout.contrasts
        )
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.pos_embed = learned_positions(math.prod(params.grid), hidden_size)
        self.image_embed = learned_positions(1 + len(layout.contrasts), hidden_size)
        self.fusion = TokenFusion(hidden_size, layout)
        self.blocks = nn.ModuleList(TransformerBlock(params) for _ in range(params.depth))
        self.norm = nn.LayerNorm(hidden_size)
        self.head = zero_module(nn.Linear(hidden_size, patch_size**2 * params.out_channels))

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """Predict from noisy slices; see `network_protocols.Backbone`.

        Args:
            x_t: The noisy slices.
            t: Timesteps.
            cond: The condition.

        Returns:
            The prediction.
        """
        patch_size, (height, width) = self.params.patch_size, x_t.shape[-2:]
        grid = height // patch_size, width // patch_size
        positions = interpolate_positions(self.pos_embed, self.params.grid, grid)  # 1 n e

        images = [self.fusion(cond, self.x_embedder(x_t), grid)]  # b n e
        for i, embed in enumerate(self.source_embedders):
            images.append(embed(cond.stream(i)))
        sequence = [image + positions + self.image_embed[:, i, None] for i, image in enumerate(images)]
        tokens = torch.cat([*sequence, self.t_embedder(t)[:, None]], 1)  # b (images n + 1) e

        for block in self.blocks:
            tokens = maybe_checkpoint(block, tokens, use_checkpoint=self.params.use_checkpoint)
        x_t_tokens = tokens[:, : positions.shape[1]]  # b n e
        pixels = self.head(self.norm(x_t_tokens))  # b n (p p c)

        return Prediction(unpatchify(pixels, height, patch_size).float())
