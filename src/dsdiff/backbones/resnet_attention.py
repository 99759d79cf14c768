"""A residual trunk with self-attention at one resolution, without levels and skip connections.

Pixels are folded into channels once, by `stem`. After every `attention_every` residual blocks there is self-attention
over all pixels.
Source: the residual trunk of He et al. 2016 (arXiv:1512.03385) with the blocks of Ho et al. 2020 (arXiv:2006.11239).
"""

from functools import partial

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dsdiff.layers.fusion import SpadeFusion
from dsdiff.layers.primitives import embed_timestep
from dsdiff.layers.unet_blocks import AttentionBlock, ResBlock, TimestepEmbedSequential
from dsdiff.layers.unet_params import UNetParams
from dsdiff.layers.unet_stages import build_head, build_time_embed, run_encoder
from dsdiff.types import Condition, ConditionLayout, Prediction


class ResNetAttentionParams(UNetParams):
    """Parameters of the trunk.

    Attributes:
        channel_mult: Always (1,): there is one level of `model_channels` channels.
        num_res_blocks: Number of residual blocks.
        attention_every: Number of residual blocks before each attention block.
        stem: Folds stem x stem pixels into channels.
    """

    channel_mult: tuple[float, ...] = (1,)
    num_res_blocks: int = Field(12, ge=1)
    attention_every: int = Field(4, ge=1)
    stem: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _check_level(self) -> "ResNetAttentionParams":
        if self.channel_mult != (1,):
            raise ValueError(f"channel_mult is {self.channel_mult}; a trunk has one level, (1,)")
        if self.attention_resolutions:
            raise ValueError("attention_resolutions are for UNets; set attention_every")
        if self.resblock_updown or not self.conv_resample or self.num_heads_upsample != -1:
            raise ValueError(
                "resblock_updown, conv_resample and num_heads_upsample are for UNets: a trunk has one level"
            )
        return self

    @property
    def warnings(self) -> tuple[str, ...]:
        """Legal values that are probably a mistake.

        Returns:
            A sentence for each.
        """
        messages = super().warnings
        if self.attention_every > self.num_res_blocks:
            message = (
                f"attention_every {self.attention_every} has no effect: there are {self.num_res_blocks} residual blocks"
            )
            messages = (*messages, message)
        return messages


class ResNetAttention(nn.Module):
    """The residual trunk with self-attention. Its output starts at zero.

    Args:
        params: Size of the network.
        layout: The channels of the condition.
    """

    Params = ResNetAttentionParams

    def __init__(self, params: ResNetAttentionParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params = params
        self.multiple = params.stem
        width = params.model_channels
        self.time_embed = build_time_embed(params)
        self.unshuffle = nn.PixelUnshuffle(params.stem)
        self.shuffle = nn.PixelShuffle(params.stem)
        first_conv = nn.Conv2d((1 + len(layout.map_channels)) * params.stem**2, width, 3, padding=1)
        self.blocks = nn.ModuleList([TimestepEmbedSequential(first_conv)])
        self.fusion = SpadeFusion({0: width}, layout)
        for i in range(params.num_res_blocks):
            block = TimestepEmbedSequential(ResBlock(width, width, params))
            if (i + 1) % params.attention_every == 0:
                block.append(AttentionBlock(width, params))
            self.blocks.append(block)
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
        emb = embed_timestep(self.time_embed, t, self.params.model_channels)
        h = self.unshuffle(torch.cat([x_t, cond.maps()], 1))  # b (c stem stem) h/stem w/stem
        h = run_encoder(self.blocks, h, emb, self.params.use_checkpoint, partial(self.fusion, cond))[-1]
        return Prediction(self.shuffle(self.out(h)).float())
