"""Several encoders side by side: one stream for the noisy image, one for each contrast, all told the time.

What is injected at every scale enters the noisy image's stream: the others see their contrast.

Stream 0 is the noisy image and is always there; stream 1 + i is contrast i, there where `present` says so.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsdiff.conditioning.encoder import mean
from dsdiff.layers.injection import Injection
from dsdiff.layers.unet_blocks import ConvParams, encode, encoder, level_starts
from dsdiff.types import Condition, ConditionLayout

__all__ = ["SqueezeExcitation", "Streams", "all_there", "mean", "shared"]


class Streams(nn.Module):
    """An encoder per stream, of equal shape and own weights. `widths`: channels after each block."""

    def __init__(self, params: ConvParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.use_checkpoint = params.use_checkpoint
        self.unshuffle = nn.PixelUnshuffle(params.stem)
        self.noisy, self.widths = encoder(1, params)
        self.inject = Injection({i: self.widths[i] for i in level_starts(params)}, layout)
        self.contrasts = nn.ModuleList(encoder(layout.stream_channels, params)[0] for _ in layout.contrasts)

    def forward(
        self, x_t: Float[Tensor, "b 1 h w"], cond: Condition, emb: Float[Tensor, "b e"]
    ) -> list[Float[Tensor, "b s c h2 w2"]]:
        """Features of all streams after each block."""
        noisy = encode(self.noisy, self.unshuffle(x_t), emb, self.use_checkpoint, partial(self.inject, cond))
        features = [noisy]
        for i, blocks in enumerate(self.contrasts):
            assert isinstance(blocks, nn.ModuleList)
            features.append(encode(blocks, self.unshuffle(cond.stream(i)), emb, self.use_checkpoint))
        return [torch.stack(same_block, 1) for same_block in zip(*features, strict=True)]


class SqueezeExcitation(nn.Module):
    """Each channel scaled by what the means of all channels say. Source: Hu et al. 2018 (arXiv:1709.01507, eq. 2-4)."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction), nn.ReLU(), nn.Linear(channels // reduction, channels)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x * self.fc(x.mean((2, 3))).sigmoid()[:, :, None, None].type(x.dtype)


def all_there(present: Bool[Tensor, "b n"]) -> Bool[Tensor, "b s"]:
    """`present` with the noisy image's stream before the contrasts."""
    return torch.cat([torch.ones_like(present[:, :1]), present], 1)


def shared(head: nn.Module, features: Float[Tensor, "b s c h w"]) -> Float[Tensor, "b s c2 h w"]:
    """One head applied to every stream."""
    return head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
