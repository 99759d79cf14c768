"""The disentangled conditional UNet: a stream per image, common and distinct features at the bottleneck.

Two heads that all streams share compute common and distinct features of every stream. Common features are averaged over
the streams, distinct features stay separate. Both are weighted by channel and fused. Skip connections are means over
the streams. `ORIGINAL_STRUCTURE` holds the parameters with which the network computes what `UNet_disc_Model` does.
Source: the idea of Mao et al. 2023 (DisC-Diff, arXiv:2303.13933), implemented from its description.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.conditioning.encoder import mean_over_present
from dsdiff.layers.disentangled_heads import SqueezeExcitation
from dsdiff.layers.multi_encoder import MultiEncoder, apply_per_stream, with_noisy_stream
from dsdiff.layers.primitives import embed_timestep, maybe_checkpoint
from dsdiff.layers.unet_params import UNetParams
from dsdiff.layers.unet_stages import build_decoder, build_head, build_middle, build_time_embed, run_decoder
from dsdiff.types import Condition, ConditionLayout, FeaturePair, Prediction

# The structure of `UNet_disc_Model`. Weights that were trained there need it.
ORIGINAL_STRUCTURE = {"head_activation": "silu", "excitation_bias": False, "distinct_features": "excited"}


class DisentangledParams(UNetParams):
    """Parameters of the disentangled conditional UNet.

    Attributes:
        head_activation: What follows the convolution of both heads.
        excitation_bias: Whether the linear layers of the squeeze-excitations have a bias.
        distinct_features: The distinct features that the network returns for the losses: of the "head", or "excited",
            that is after the squeeze-excitation.
    """

    head_activation: Literal["none", "silu"] = "none"
    excitation_bias: bool = True
    distinct_features: Literal["head", "excited"] = "head"


class DisentangledUNet(nn.Module):
    """The disentangled conditional UNet. Its output starts at zero. It returns one feature pair over all streams.

    Args:
        params: Size of the network.
        layout: The channels of the condition.
    """

    Params = DisentangledParams
    returns_feature_pairs = True

    def __init__(self, params: DisentangledParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params = params
        self.multiple = params.factors[-1]
        self.time_embed = build_time_embed(params)
        self.streams = MultiEncoder(params, layout)

        n_streams, width = 1 + len(layout.contrasts), self.streams.widths[-1]
        half = width // 2
        self.common = nn.Conv2d(width, half, 3, padding=1)
        self.distinct = nn.Conv2d(width, half, 3, padding=1)
        self.activation = nn.SiLU() if params.head_activation == "silu" else nn.Identity()
        self.weigh_common = SqueezeExcitation(half, bias=params.excitation_bias)
        self.weigh_distinct = nn.ModuleList(
            SqueezeExcitation(half, bias=params.excitation_bias) for _ in range(n_streams)
        )
        self.fuse = nn.Sequential(nn.Conv2d((1 + n_streams) * half, width, 1), nn.SiLU())

        self.middle_block = build_middle(width, params)
        self.output_blocks = build_decoder(self.streams.widths, params)
        self.out = build_head(params)
        self.shuffle = nn.PixelShuffle(params.stem)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """Predict from noisy slices; see `network_protocols.Backbone`.

        Args:
            x_t: The noisy slices.
            t: Timesteps.
            cond: The condition.

        Returns:
            The prediction, with common and distinct features.
        """
        use_checkpoint = self.params.use_checkpoint
        emb = embed_timestep(self.time_embed, t, self.params.model_channels)

        streams_present = with_noisy_stream(cond.present)  # b s
        features = self.streams(x_t, cond, emb)
        common = self.activation(apply_per_stream(self.common, features[-1]))  # b s c h w
        distinct = self.activation(apply_per_stream(self.distinct, features[-1]))

        masked_distinct = distinct * streams_present[:, :, None, None, None]
        weighted_common = self.weigh_common(mean_over_present(common, streams_present))  # b c h w
        weighted_distinct = [weigh(masked_distinct[:, i]) for i, weigh in enumerate(self.weigh_distinct)]
        h = self.fuse(torch.cat([weighted_common, *weighted_distinct], 1))

        h = maybe_checkpoint(self.middle_block, h, emb, use_checkpoint=use_checkpoint)
        skips = [mean_over_present(skip, streams_present) for skip in features]
        h = run_decoder(self.output_blocks, h, skips, emb, use_checkpoint)

        if self.params.distinct_features == "excited":
            distinct = torch.stack(weighted_distinct, 1)
        pair = FeaturePair(shared=common, specific=distinct, present=streams_present)
        return Prediction(self.shuffle(self.out(h)).float(), (pair,))
