"""A residual trunk with self-attention: one resolution from end to end, no levels and no skips across.

Pixels are folded into channels once, by `stem`; after every `attention_every` residual blocks all pixels attend to all.
Source: the residual trunk of He et al. 2016 (arXiv:1512.03385) with the blocks of Ho et al. 2020 (arXiv:2006.11239).
"""

from functools import partial

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dsdiff.layers.basic import embedded
from dsdiff.layers.injection import Injection
from dsdiff.layers.unet_blocks import (
    AttentionBlock,
    ConvParams,
    ResBlock,
    TimestepEmbedSequential,
    encode,
    head,
    time_embed,
)
from dsdiff.types import Condition, ConditionLayout, Prediction


class ResNetAttentionParams(ConvParams):
    """`model_channels` wide throughout, `num_res_blocks` deep; there is one level, so channel_mult stays (1,)."""

    channel_mult: tuple[float, ...] = (1,)
    num_res_blocks: int = Field(12, ge=1)
    attention_every: int = Field(4, ge=1)
    stem: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _one_level(self) -> "ResNetAttentionParams":
        if self.channel_mult != (1,):
            raise ValueError(f"channel_mult is {self.channel_mult}; a trunk has one level, (1,)")
        if self.attention_resolutions:
            raise ValueError("attention_resolutions are a UNet's; set attention_every")
        if self.resblock_updown or not self.conv_resample or self.num_heads_upsample != -1:
            raise ValueError(
                "resblock_updown, conv_resample and num_heads_upsample are a UNet's: a trunk has one level"
            )
        return self

    @property
    def doubts(self) -> tuple[str, ...]:
        said = super().doubts
        if self.attention_every > self.num_res_blocks:
            said += (f"attention_every {self.attention_every} never occurs among {self.num_res_blocks} blocks",)
        return said


class ResNetAttention(nn.Module):
    """See the module. Starts at a zero output."""

    Params = ResNetAttentionParams

    def __init__(self, params: ResNetAttentionParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params, self.multiple = params, params.stem
        width = params.model_channels
        self.time_embed = time_embed(params)
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(params.stem), nn.PixelShuffle(params.stem)
        first = nn.Conv2d((1 + layout.channels) * params.stem**2, width, 3, padding=1)
        self.blocks = nn.ModuleList([TimestepEmbedSequential(first)])
        self.inject = Injection({0: width}, layout)
        for i in range(params.num_res_blocks):
            block = TimestepEmbedSequential(ResBlock(width, width, params))
            if (i + 1) % params.attention_every == 0:
                block.append(AttentionBlock(width, params))
            self.blocks.append(block)
        self.out = head(params)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        emb = embedded(self.time_embed, t, self.params.model_channels)
        h = self.unshuffle(torch.cat([x_t, cond.maps()], 1))
        h = encode(self.blocks, h, emb, self.params.use_checkpoint, partial(self.inject, cond))[-1]
        return Prediction(self.shuffle(self.out(h)).float())
