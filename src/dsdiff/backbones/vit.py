"""The vision transformer: x_t and the condition in patches, time added to every token, a linear head.

With `long_skips`, shallow tokens are joined to deep ones, like the levels of a UNet.
Source: Dosovitskiy et al. 2021 (ViT, arXiv:2010.11929), Bao et al. 2023 (U-ViT, arXiv:2209.12152, fig. 1).
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


class ViTParams(TransformerParams):
    """Parameters of the vision transformer.

    Attributes:
        long_skips: Join the first block to the last, the second to the last but one, and so on (U-ViT).
    """

    long_skips: bool = False

    @property
    def n_long_skips(self) -> int:
        """Number of long skips. A block in the middle has no counterpart.

        Returns:
            0 without `long_skips`.
        """
        return (self.depth - 1) // 2 if self.long_skips else 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Legal values that are probably a mistake.

        Returns:
            A sentence for each.
        """
        if self.long_skips and not self.n_long_skips:
            return (f"long_skips has no effect: depth is {self.depth}, and it needs 3 or more",)
        return ()


class VisionTransformer(nn.Module):
    """The vision transformer. Its output starts at zero.

    Args:
        params: Size of the network.
        layout: The channels of the condition.
    """

    Params = ViTParams

    def __init__(self, params: ViTParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params = params
        self.multiple = params.patch_size
        hidden_size = params.hidden_size
        self.x_embedder = PatchEmbed(1 + len(layout.map_channels), params.patch_size, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.pos_embed = learned_positions(math.prod(params.grid), hidden_size)
        self.fusion = TokenFusion(hidden_size, layout)
        self.blocks = nn.ModuleList(TransformerBlock(params) for _ in range(params.depth))
        self.skips = nn.ModuleList(nn.Linear(2 * hidden_size, hidden_size) for _ in range(params.n_long_skips))
        self.norm = nn.LayerNorm(hidden_size)
        self.head = zero_module(nn.Linear(hidden_size, params.patch_size**2 * params.out_channels))

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

        tokens = self.x_embedder(torch.cat([x_t, cond.maps()], 1)) + positions  # b n e
        tokens = self.fusion(cond, tokens, grid)
        tokens = tokens + self.t_embedder(t)[:, None]

        n_blocks, n_skips = len(self.blocks), len(self.skips)
        shallow_tokens: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            if i >= n_blocks - n_skips:
                joined = torch.cat([tokens, shallow_tokens.pop()], -1)  # b n 2e
                tokens = self.skips[n_blocks - 1 - i](joined)  # b n e
            tokens = maybe_checkpoint(block, tokens, use_checkpoint=self.params.use_checkpoint)
            if i < n_skips:
                shallow_tokens.append(tokens)
        pixels = self.head(self.norm(tokens))  # b n (p p c)

        return Prediction(unpatchify(pixels, height, patch_size).float())
