"""The stages of UNets: encoder, middle, decoder, output head, and the time embedding.

Modules have the order of guided-diffusion and latent-diffusion, so that weights trained there load.
Source: Ho et al. 2020 (arXiv:2006.11239), Dhariwal and Nichol 2021 (arXiv:2105.05233).
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.layers.primitives import maybe_checkpoint, normalization, zero_module
from dsdiff.layers.unet_blocks import AttentionBlock, Downsample, ResBlock, TimestepEmbedSequential, Upsample
from dsdiff.layers.unet_params import UNetParams


def build_encoder(in_channels: int, params: UNetParams) -> tuple[nn.ModuleList, list[int]]:
    """Build the blocks from the image to the coarsest level.

    Args:
        in_channels: Channels of the image.
        params: Size of the network.

    Returns:
        The blocks, and the channels after each.
    """
    channels = params.widths[0]
    first_conv = nn.Conv2d(in_channels * params.stem**2, channels, 3, padding=1)
    blocks, widths = nn.ModuleList([TimestepEmbedSequential(first_conv)]), [channels]

    for level, (factor, out_channels) in enumerate(zip(params.factors, params.widths, strict=True)):
        for _ in range(params.blocks[level]):
            blocks.append(_build_level_block(channels, out_channels, params, factor, up=False))
            channels = out_channels
            widths.append(channels)

        is_coarsest = level == len(params.channel_mult) - 1
        if not is_coarsest:
            down = ResBlock(channels, channels, params, "down") if params.resblock_updown else None
            blocks.append(TimestepEmbedSequential(down or Downsample(channels, params.conv_resample)))
            widths.append(channels)

    return blocks, widths


def build_middle(channels: int, params: UNetParams) -> TimestepEmbedSequential:
    """Build the blocks at the coarsest level.

    Args:
        channels: Channels of that level.
        params: Size of the network.

    Returns:
        The blocks.
    """
    return TimestepEmbedSequential(
        ResBlock(channels, channels, params), AttentionBlock(channels, params), ResBlock(channels, channels, params)
    )


def build_decoder(widths: Sequence[int], params: UNetParams) -> nn.ModuleList:
    """Build the blocks back to the image. Each takes the skip connection of its counterpart in the encoder.

    Args:
        widths: Channels after each block of the encoder.
        params: Size of the network.

    Returns:
        The blocks.
    """
    blocks = nn.ModuleList()
    skip_widths = list(widths)
    channels = widths[-1]

    for level in reversed(range(len(params.widths))):
        factor, out_channels = params.factors[level], params.widths[level]
        for i in range(params.blocks[level] + 1):
            block = _build_level_block(channels + skip_widths.pop(), out_channels, params, factor, up=True)
            channels = out_channels
            is_last_of_level = i == params.blocks[level]
            if is_last_of_level and level > 0:
                up = ResBlock(channels, channels, params, "up") if params.resblock_updown else None
                block.append(up or Upsample(channels, params.conv_resample))
            blocks.append(block)

    return blocks


def _build_level_block(
    channels: int, out_channels: int, params: UNetParams, factor: int, up: bool
) -> TimestepEmbedSequential:
    """A residual block, with attention if the downsampling factor is one of `attention_resolutions`."""
    block = TimestepEmbedSequential(ResBlock(channels, out_channels, params))
    if factor in params.attention_resolutions:
        block.append(AttentionBlock(out_channels, params, up))
    return block


def build_time_embed(params: UNetParams) -> nn.Sequential:
    """Build the MLP from sinusoids of t to the time embedding.

    Args:
        params: Size of the network.

    Returns:
        The MLP.
    """
    features = params.emb_channels
    return nn.Sequential(nn.Linear(params.model_channels, features), nn.SiLU(), nn.Linear(features, features))


def build_head(params: UNetParams) -> nn.Sequential:
    """Build the layers from features to the output, on the coarse grid of the stem. The output starts at zero.

    Args:
        params: Size of the network.

    Returns:
        The layers.
    """
    width = params.widths[0]
    last_conv = zero_module(nn.Conv2d(width, params.out_channels * params.stem**2, 3, padding=1))
    return nn.Sequential(normalization(width), nn.SiLU(), last_conv)


def first_block_of_levels(params: UNetParams) -> list[int]:
    """Find the encoder blocks at which a level begins: the first block, and every block that halves the size.

    Args:
        params: Size of the network.

    Returns:
        The number of one block per level.
    """
    first_blocks = [0]
    for n_blocks in params.blocks[:-1]:
        first_blocks.append(first_blocks[-1] + n_blocks + 1)
    return first_blocks


def _keep_features(i: int, h: Tensor) -> Tensor:
    return h


def run_encoder(
    blocks: Iterable[nn.Module],
    h: Float[Tensor, "b c h w"],
    emb: Float[Tensor, "b e"],
    use_checkpoint: bool,
    fuse: Callable[[int, Tensor], Tensor] = _keep_features,
) -> list[Tensor]:
    """Run an encoder.

    Args:
        blocks: Its blocks.
        h: The image.
        emb: The time embedding.
        use_checkpoint: Use gradient checkpointing.
        fuse: Changes the features after block i.

    Returns:
        Features after each block; the last are its output.
    """
    features = []
    for i, block in enumerate(blocks):
        h = fuse(i, maybe_checkpoint(block, h, emb, use_checkpoint=use_checkpoint))
        features.append(h)
    return features


def run_decoder(
    blocks: Iterable[nn.Module],
    h: Float[Tensor, "b c h w"],
    skips: Sequence[Tensor],
    emb: Float[Tensor, "b e"],
    use_checkpoint: bool,
) -> Float[Tensor, "b c2 h2 w2"]:
    """Run a decoder, which takes the skip connections from the last to the first.

    Args:
        blocks: Its blocks.
        h: Features of the coarsest level.
        skips: Features after each block of the encoder.
        emb: The time embedding.
        use_checkpoint: Use gradient checkpointing.

    Returns:
        Features of the finest level.
    """
    for block, skip in zip(blocks, reversed(skips), strict=True):
        joined = torch.cat([h, skip], 1)
        h = maybe_checkpoint(block, joined, emb, use_checkpoint=use_checkpoint)
    return h
