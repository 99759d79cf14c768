"""Building blocks of UNets: residual blocks with a time embedding, attention, up- and downsampling.

Modules have the names and the order of guided-diffusion and latent-diffusion, so that weights trained there load.
Source: Ho et al. 2020 (arXiv:2006.11239), Dhariwal and Nichol 2021 (arXiv:2105.05233).
"""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.layers.primitives import attention, normalization, zero_module
from dsdiff.layers.unet_params import UNetParams


class TimestepEmbedSequential(nn.Sequential):
    """A sequence that passes the time embedding to its residual blocks."""

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """Run the blocks one after another.

        Args:
            x: Features.
            emb: The time embedding.

        Returns:
            The output of the last block.
        """
        for block in self:
            x = block(x, emb) if isinstance(block, ResBlock) else block(x)
        return x


class Upsample(nn.Module):
    """Doubles the size by nearest-neighbor interpolation.

    Args:
        channels: Channels of the features.
        use_conv: Whether a convolution follows.
    """

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        if use_conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.use_conv = use_conv

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Double the size.

        Args:
            x: Features.

        Returns:
            Features of twice the height and width.
        """
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if self.use_conv else x


class Downsample(nn.Module):
    """Halves the size.

    Args:
        channels: Channels of the features.
        use_conv: Whether by a strided convolution; otherwise by averaging.
    """

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else nn.AvgPool2d(2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Halve the size.

        Args:
            x: Features.

        Returns:
            Features of half the height and width.
        """
        return self.op(x)


class ResBlock(nn.Module):
    """A residual block: two convolutions with the time embedding between them. Starts as its skip connection.

    Args:
        channels: Channels of the input.
        out_channels: Channels of the output.
        params: Size of the network.
        resample: Whether the block also doubles ("up") or halves ("down") the size.
    """

    def __init__(
        self, channels: int, out_channels: int, params: UNetParams, resample: Literal["", "up", "down"] = ""
    ) -> None:
        super().__init__()
        self.use_scale_shift_norm = params.use_scale_shift_norm
        self.resample: nn.Module = nn.Identity()
        if resample:
            self.resample = Upsample(channels, False) if resample == "up" else Downsample(channels, False)
        self.in_layers = nn.Sequential(
            normalization(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        emb_features = 2 * out_channels if params.use_scale_shift_norm else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(params.emb_channels, emb_features))
        self.out_layers = nn.Sequential(
            normalization(out_channels),
            nn.SiLU(),
            nn.Dropout(params.dropout),
            zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        is_same_width = channels == out_channels
        self.skip_connection = nn.Identity() if is_same_width else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Run the block.

        Args:
            x: Features.
            emb: The time embedding.

        Returns:
            Features with `out_channels` channels.
        """
        norm, activation, conv = self.in_layers
        h = conv(self.resample(activation(norm(x))))  # b c2 h2 w2

        emb_out = self.emb_layers(emb)[:, :, None, None].type(h.dtype)  # b c2 1 1, or b (2 c2) 1 1
        if self.use_scale_shift_norm:
            scale, shift = emb_out.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + emb_out)

        return self.skip_connection(self.resample(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, with a residual connection. Starts as the identity.

    Args:
        channels: Channels of the features.
        params: Size of the network.
        up: Whether the block is in the decoder.
    """

    def __init__(self, channels: int, params: UNetParams, up: bool = False) -> None:
        super().__init__()
        self.num_heads = params.heads(channels, up)
        self.new_order = params.use_new_attention_order
        self.fused = params.fused
        self.norm = normalization(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_module(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend from every pixel to every pixel.

        Args:
            x: Features.

        Returns:
            Features of the same shape.
        """
        tokens = x.flatten(2)  # b c n
        qkv = self.qkv(self.norm(tokens))  # b 3c n
        heads = (3, self.num_heads, -1) if self.new_order else (self.num_heads, 3, -1)
        qkv = qkv.unflatten(1, heads).transpose(-1, -2).contiguous()  # the layout that fused kernels need
        q, k, v = qkv.unbind(1 if self.new_order else 2)  # b heads n e
        out = attention(q, k, v, self.fused).transpose(-1, -2).flatten(1, 2)  # b c n
        return x + self.proj_out(out).unflatten(2, x.shape[2:])
