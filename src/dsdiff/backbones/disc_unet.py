"""The disentangled conditional UNet: a stream per image, common and distinct features at the bottleneck.

Every stream gives common and distinct features by two heads that all streams share. The common ones are averaged over
the streams, the distinct ones kept apart; both are weighted by channel and fused. Skips are means over the streams.
Source: the idea of Mao et al. 2023 (DisC-Diff, arXiv:2303.13933), written anew from its description.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.layers.basic import embedded, run
from dsdiff.layers.multi_encoder import SqueezeExcitation, Streams, all_there, mean, shared
from dsdiff.layers.unet_blocks import ConvParams, decode, decoder, head, middle, time_embed
from dsdiff.types import Condition, ConditionLayout, Prediction


class DisentangledUNet(nn.Module):
    """See the module. Starts at a zero output. Features: `common` and `distinct` (b s c h w), stream by stream."""

    Params, features = ConvParams, ("common", "distinct")

    def __init__(self, params: ConvParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params, self.multiple = params, params.factors[-1]
        self.time_embed = time_embed(params)
        self.streams = Streams(params, layout)
        n_streams, width = 1 + len(layout.contrasts), self.streams.widths[-1]
        half = width // 2
        self.common = nn.Conv2d(width, half, 3, padding=1)
        self.distinct = nn.Conv2d(width, half, 3, padding=1)
        self.weigh_common = SqueezeExcitation(half)
        self.weigh_distinct = nn.ModuleList(SqueezeExcitation(half) for _ in range(n_streams))
        self.fuse = nn.Sequential(nn.Conv2d((1 + n_streams) * half, width, 1), nn.SiLU())
        self.middle_block = middle(width, params)
        self.output_blocks = decoder(self.streams.widths, params)
        self.out = head(params)
        self.shuffle = nn.PixelShuffle(params.stem)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        there, kept = all_there(cond.present), self.params.use_checkpoint
        emb = embedded(self.time_embed, t, self.params.model_channels)
        features = self.streams(x_t, cond, emb)
        common, distinct = shared(self.common, features[-1]), shared(self.distinct, features[-1])
        apart = distinct * there[:, :, None, None, None]  # nothing of an absent contrast goes on
        weighed = [weigh(apart[:, i]) for i, weigh in enumerate(self.weigh_distinct)]
        h = self.fuse(torch.cat([self.weigh_common(mean(common, there)), *weighed], 1))
        h = run(self.middle_block, h, emb, use_checkpoint=kept)
        h = decode(self.output_blocks, h, [mean(skip, there) for skip in features], emb, kept)
        return Prediction(self.shuffle(self.out(h)).float(), {"common": common, "distinct": distinct})
