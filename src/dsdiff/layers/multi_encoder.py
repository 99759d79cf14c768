"""Several encoders side by side: one stream for the noisy image and one for each contrast.

Stream 0 is the noisy image and is always present. Stream 1 + i is contrast i and is present if the contrast is. Every
stream gets the time embedding. With `conditioning.fusion: spade`, guidance enters the stream of the noisy image.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsdiff.layers.fusion import SpadeFusion
from dsdiff.layers.unet_params import UNetParams
from dsdiff.layers.unet_stages import build_encoder, first_block_of_levels, run_encoder
from dsdiff.types import Condition, ConditionLayout


class MultiEncoder(nn.Module):
    """An encoder per stream, of the same shape and with its own weights.

    Args:
        params: Size of each encoder.
        layout: The channels of the condition.

    Attributes:
        widths: Channels after each block.
    """

    def __init__(self, params: UNetParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.use_checkpoint = params.use_checkpoint
        self.unshuffle = nn.PixelUnshuffle(params.stem)
        self.noisy, self.widths = build_encoder(1, params)
        self.fusion = SpadeFusion({i: self.widths[i] for i in first_block_of_levels(params)}, layout)
        self.contrasts = nn.ModuleList(build_encoder(len(layout.stream_channels), params)[0] for _ in layout.contrasts)

    def forward(
        self, x_t: Float[Tensor, "b 1 h w"], cond: Condition, emb: Float[Tensor, "b e"]
    ) -> list[Float[Tensor, "b s c h2 w2"]]:
        """Encode the noisy image and all contrasts.

        Args:
            x_t: The noisy image.
            cond: The condition.
            emb: The time embedding.

        Returns:
            Features of all streams after each block.
        """
        fuse = partial(self.fusion, cond)
        streams = [run_encoder(self.noisy, self.unshuffle(x_t), emb, self.use_checkpoint, fuse)]
        for i, blocks in enumerate(self.contrasts):
            assert isinstance(blocks, nn.ModuleList)
            image = self.unshuffle(cond.stream(i))  # b (c stem stem) h/stem w/stem
            streams.append(run_encoder(blocks, image, emb, self.use_checkpoint))
        return [torch.stack(features_of_block, 1) for features_of_block in zip(*streams, strict=True)]


def with_noisy_stream(present: Bool[Tensor, "b n"]) -> Bool[Tensor, "b s"]:
    """Prepend the stream of the noisy image, which is always present.

    Args:
        present: The contrasts that each case has.

    Returns:
        The streams that each case has.
    """
    return torch.cat([torch.ones_like(present[:, :1]), present], 1)


def apply_per_stream(head: nn.Module, features: Float[Tensor, "b s c h w"]) -> Float[Tensor, "b s c2 h w"]:
    """Apply one head to every stream.

    Args:
        head: A module on images.
        features: Features of every stream.

    Returns:
        Its output for every stream.
    """
    return head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
