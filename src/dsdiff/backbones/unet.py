"""The UNet of the field: an encoder, a middle and a decoder with skips; the condition is concatenated to x_t.

Module names and their order are those of guided-diffusion and latent-diffusion, so that weights trained there load.
Source: Ronneberger et al. 2015 (arXiv:1505.04597), Ho et al. 2020 (2006.11239), Dhariwal and Nichol 2021 (2105.05233).
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.layers.basic import embedded, run
from dsdiff.layers.injection import Injection
from dsdiff.layers.unet_blocks import (
    ConvParams,
    decode,
    decoder,
    encode,
    encoder,
    head,
    level_starts,
    middle,
    time_embed,
)
from dsdiff.types import Condition, ConditionLayout, Prediction


class UNetModel(nn.Module):
    """See the module. Starts at a zero output."""

    Params = ConvParams

    def __init__(self, params: ConvParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params, self.multiple = params, params.factors[-1]
        self.time_embed = time_embed(params)
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(params.stem), nn.PixelShuffle(params.stem)
        self.input_blocks, widths = encoder(1 + layout.channels, params)
        self.inject = Injection({i: widths[i] for i in level_starts(params)}, layout)
        self.middle_block = middle(widths[-1], params)
        self.output_blocks = decoder(widths, params)
        self.out = head(params)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        kept = self.params.use_checkpoint
        emb = embedded(self.time_embed, t, self.params.model_channels)
        h = self.unshuffle(torch.cat([x_t, cond.maps()], 1))
        skips = encode(self.input_blocks, h, emb, kept, partial(self.inject, cond))
        h = run(self.middle_block, skips[-1], emb, use_checkpoint=kept)
        h = decode(self.output_blocks, h, skips, emb, kept)
        return Prediction(self.shuffle(self.out(h)).float())
