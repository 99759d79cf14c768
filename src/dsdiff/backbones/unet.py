"""The UNet of the field: encoder, middle and decoder with skip connections; the condition is concatenated to x_t.

Modules have the names and the order of guided-diffusion and latent-diffusion, so that weights trained there load.
Source: Ronneberger et al. 2015 (arXiv:1505.04597), Ho et al. 2020 (2006.11239), Dhariwal and Nichol 2021 (2105.05233).
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.layers.fusion import SpadeFusion
from dsdiff.layers.primitives import embed_timestep, maybe_checkpoint
from dsdiff.layers.unet_params import UNetParams
from dsdiff.layers.unet_stages import (
    build_decoder,
    build_encoder,
    build_head,
    build_middle,
    build_time_embed,
    first_block_of_levels,
    run_decoder,
    run_encoder,
)
from dsdiff.types import Condition, ConditionLayout, Prediction


class UNetModel(nn.Module):
    """The UNet. Its output starts at zero.

    Args:
        params: Size of the network.
        layout: The channels of the condition.
    """

    Params = UNetParams

    def __init__(self, params: UNetParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params = params
        self.multiple = params.factors[-1]
        self.time_embed = build_time_embed(params)
        self.unshuffle = nn.PixelUnshuffle(params.stem)
        self.shuffle = nn.PixelShuffle(params.stem)
        self.input_blocks, widths = build_encoder(1 + len(layout.map_channels), params)
        self.fusion = SpadeFusion({i: widths[i] for i in first_block_of_levels(params)}, layout)
        self.middle_block = build_middle(widths[-1], params)
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
        h = maybe_checkpoint(self.middle_block, skips[-1], emb, use_checkpoint=use_checkpoint)
        h = run_decoder(self.output_blocks, h, skips, emb, use_checkpoint)

        return Prediction(self.shuffle(self.out(h)).float())
