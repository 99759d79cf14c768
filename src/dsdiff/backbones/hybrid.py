"""The hybrid: a UNet's encoder and decoder about a transformer, which sees the whole slice at the coarsest level.

Source: the arrangement of TransUNet (Chen et al. 2021, arXiv:2102.04306) and UViT (Hoogeboom et al. 2023,
arXiv:2301.11093, section 3.4), with the blocks of our UNet.
"""

import math
from functools import partial

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dsdiff.layers.basic import embedded, run, zero_module
from dsdiff.layers.injection import Injection
from dsdiff.layers.transformer_blocks import TokenParams, TransformerBlock, learnt_positions, positions
from dsdiff.layers.unet_blocks import ConvParams, decode, decoder, encode, encoder, head, level_starts, time_embed
from dsdiff.types import Condition, ConditionLayout, Prediction


class HybridParams(ConvParams):
    """A UNet's params and the transformer's: `depth` blocks of `hidden_size` with `transformer_heads` heads.

    image_size: the size, in pixels, whose positions are stored; those of other sizes are interpolated.
    """

    image_size: int | tuple[int, int] = 256
    hidden_size: int = Field(256, ge=4, multiple_of=4)
    depth: int = Field(6, ge=1)
    transformer_heads: int = Field(8, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)

    @model_validator(mode="after")
    def _transformer_fits(self) -> "HybridParams":
        if self.hidden_size % self.transformer_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by transformer_heads {self.transformer_heads}"
            )
        assert self.tokens.grid  # raises where image_size does not fit
        return self

    @property
    def tokens(self) -> TokenParams:
        """The transformer's part; a patch is a pixel of the coarsest level."""
        return TokenParams(
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
    """Pixels of the coarsest level as tokens, with positions and time; what comes out is added to what came in."""

    def __init__(self, channels: int, emb_channels: int, params: TokenParams, use_checkpoint: bool) -> None:
        super().__init__()
        self.grid, self.use_checkpoint = params.grid, use_checkpoint
        width = params.hidden_size
        self.enter = nn.Linear(channels, width)
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, width))
        self.pos_embed = learnt_positions(math.prod(params.grid), width)
        self.blocks = nn.ModuleList(TransformerBlock(params) for _ in range(params.depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_module(nn.Linear(width, channels)))

    def forward(self, h: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b c h w"]:
        height, width = h.shape[-2:]
        tokens = self.enter(h.flatten(2).transpose(1, 2)) + positions(self.pos_embed, self.grid, (height, width))
        tokens = tokens + self.time(emb)[:, None]  # b n e
        for block in self.blocks:
            tokens = run(block, tokens, use_checkpoint=self.use_checkpoint)
        return h + self.leave(tokens).transpose(1, 2).unflatten(2, (height, width))


class Hybrid(nn.Module):
    """See the module. Starts at a zero output."""

    Params = HybridParams

    def __init__(self, params: HybridParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params, self.multiple = params, params.factors[-1]
        self.time_embed = time_embed(params)
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(params.stem), nn.PixelShuffle(params.stem)
        self.input_blocks, widths = encoder(1 + layout.channels, params)
        self.inject = Injection({i: widths[i] for i in level_starts(params)}, layout)
        self.middle = TransformerMiddle(widths[-1], params.emb_channels, params.tokens, params.use_checkpoint)
        self.output_blocks = decoder(widths, params)
        self.out = head(params)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        kept = self.params.use_checkpoint
        emb = embedded(self.time_embed, t, self.params.model_channels)
        h = self.unshuffle(torch.cat([x_t, cond.maps()], 1))
        skips = encode(self.input_blocks, h, emb, kept, partial(self.inject, cond))
        h = decode(self.output_blocks, self.middle(skips[-1], emb), skips, emb, kept)
        return Prediction(self.shuffle(self.out(h)).float())
