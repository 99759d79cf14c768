"""The hybrid: a UNet with a transformer in the middle, which attends over the whole slice at the coarsest level.

Source: the arrangement of TransUNet (Chen et al. 2021, arXiv:2102.04306) and UViT (Hoogeboom et al. 2023,
arXiv:2301.11093, section 3.4), with the blocks of our UNet.
"""

import math
from functools import partial

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dsdiff.layers.fusion import SpadeFusion
from dsdiff.layers.primitives import embed_timestep, maybe_checkpoint, zero_module
from dsdiff.layers.transformer_blocks import (
    TransformerBlock,
    TransformerParams,
    interpolate_positions,
    learned_positions,
)
from dsdiff.layers.unet_params import UNetParams
from dsdiff.layers.unet_stages import (
    build_decoder,
    build_encoder,
    build_head,
    build_time_embed,
    first_block_of_levels,
    run_decoder,
    run_encoder,
)
from dsdiff.types import Condition, ConditionLayout, Prediction


class HybridParams(UNetParams):
    """Parameters of a UNet and of the transformer in its middle.

    Attributes:
        image_size: Size in pixels for which positions are stored; they are interpolated for other sizes.
        hidden_size: Features of a token.
        depth: Number of transformer blocks.
        transformer_heads: Attention heads of each transformer block.
        mlp_ratio: Hidden features of the MLP over `hidden_size`.
    """

    image_size: int | tuple[int, int] = 256
    hidden_size: int = Field(256, ge=4, multiple_of=4)
    depth: int = Field(6, ge=1)
    transformer_heads: int = Field(8, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)

    @model_validator(mode="after")
    def _check_transformer(self) -> "HybridParams":
        if self.hidden_size % self.transformer_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by transformer_heads {self.transformer_heads}"
            )
        assert self.transformer.grid  # raises if image_size is not a multiple
        return self

    @property
    def transformer(self) -> TransformerParams:
        """The parameters of the transformer. A patch is a pixel of the coarsest level.

        Returns:
            The parameters.
        """
        return TransformerParams(
            image_size=self.image_size,
            patch_size=self.factors[-1],
            hidden_size=self.hidden_size,
            depth=self.depth,
            num_heads=self.transformer_heads,
            mlp_ratio=self.mlp_ratio,
            dropout=self.dropout,
            fused=self.fused,
        )


class TransformerMiddle(nn.Module):
    """A transformer over the pixels of the coarsest level, with a residual connection. Starts as the identity.

    Args:
        channels: Channels of the level.
        emb_channels: Features of the time embedding.
        params: Size of the transformer.
        use_checkpoint: Use gradient checkpointing.
    """

    def __init__(self, channels: int, emb_channels: int, params: TransformerParams, use_checkpoint: bool) -> None:
        super().__init__()
        self.grid = params.grid
        self.use_checkpoint = use_checkpoint
        hidden_size = params.hidden_size
        self.enter = nn.Linear(channels, hidden_size)
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, hidden_size))
        self.pos_embed = learned_positions(math.prod(params.grid), hidden_size)
        self.blocks = nn.ModuleList(TransformerBlock(params) for _ in range(params.depth))
        self.leave = nn.Sequential(nn.LayerNorm(hidden_size), zero_module(nn.Linear(hidden_size, channels)))

    def forward(self, h: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b c h w"]:
        """Attend over all pixels.

        Args:
            h: Features.
            emb: The time embedding.

        Returns:
            Features of the same shape.
        """
        grid = h.shape[-2], h.shape[-1]
        pixels = h.flatten(2).transpose(1, 2)  # b n c
        tokens = self.enter(pixels) + interpolate_positions(self.pos_embed, self.grid, grid)  # b n e
        tokens = tokens + self.time(emb)[:, None]
        for block in self.blocks:
            tokens = maybe_checkpoint(block, tokens, use_checkpoint=self.use_checkpoint)
        return h + self.leave(tokens).transpose(1, 2).unflatten(2, grid)


class Hybrid(nn.Module):
    """The hybrid of UNet and transformer. Its output starts at zero.

    Args:
        params: Size of the network.
        layout: The channels of the condition.
    """

    Params = HybridParams

    def __init__(self, params: HybridParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params = params
        self.multiple = params.factors[-1]
        self.time_embed = build_time_embed(params)
        self.unshuffle = nn.PixelUnshuffle(params.stem)
        self.shuffle = nn.PixelShuffle(params.stem)
        self.input_blocks, widths = build_encoder(1 + len(layout.map_channels), params)
        self.fusion = SpadeFusion({i: widths[i] for i in first_block_of_levels(params)}, layout)
        self.middle = TransformerMiddle(widths[-1], params.emb_channels, params.transformer, params.use_checkpoint)
        self.output_blocks = build_decoder(widths, params)
        self.out = build_head(params)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """Predict from noisy slices; see `network_protocols.Backbone`.

        Args:
            x_t: The noisy slices.
            t: Timesteps.
            cond: The condition.

        Returns:
            The prediction.
        """
        use_checkpoint = self.params.use_checkpoint
        emb = embed_timestep(self.time_embed, t, self.params.model_channels)

        h = self.unshuffle(torch.cat([x_t, cond.maps()], 1))  # b (c stem stem) h/stem w/stem
        skips = run_encoder(self.input_blocks, h, emb, use_checkpoint, partial(self.fusion, cond))
        h = self.middle(skips[-1], emb)
        h = run_decoder(self.output_blocks, h, skips, emb, use_checkpoint)

        return Prediction(self.shuffle(self.out(h)).float())
