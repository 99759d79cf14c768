"""The UNet of the field: residual blocks that know the time, attention at chosen downsampling factors, skips.

Module names and their order are those of guided-diffusion and latent-diffusion, so that weights trained there load.
Source: Ronneberger et al. 2015 (arXiv:1505.04597), Ho et al. 2020 (2006.11239), Dhariwal and Nichol 2021 (2105.05233).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from dsdiff.backbones.layers import normalization, timestep_embedding, zero_module
from dsdiff.types import Condition, Prediction


class UNetParams(BaseModel):
    """The field's vocabulary. `attention_resolutions` are downsampling factors (of the image, the stem included).

    `stem` folds stem x stem pixels into channels before the first and after the last convolution (pixel unshuffle):
    the network works on a coarser grid at a stem**2-th of the cost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    in_channels: int | None = Field(None, ge=1)
    out_channels: int = Field(1, ge=1)
    model_channels: int = Field(64, ge=32, multiple_of=32)
    channel_mult: tuple[int, ...] = Field((1, 2, 4), min_length=1)
    num_res_blocks: int = Field(2, ge=1)
    attention_resolutions: tuple[int, ...] = ()
    num_heads: int = Field(1, ge=1)
    num_head_channels: int | None = Field(None, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    conv_resample: bool = True
    use_new_attention_order: bool = False
    stem: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> "UNetParams":
        for factor, multiplier in zip(self.factors, self.channel_mult, strict=True):
            channels = multiplier * self.model_channels
            heads = self.num_head_channels or self.num_heads
            if factor in self.attention_resolutions and channels % heads:
                raise ValueError(f"{channels} channels at downsampling factor {factor} do not divide by {heads}")
        return self

    @property
    def factors(self) -> tuple[int, ...]:
        """Downsampling factor of each level."""
        return tuple(self.stem * 2**level for level in range(len(self.channel_mult)))

    def heads(self, channels: int) -> int:
        """Attention heads at a width."""
        return channels // self.num_head_channels if self.num_head_channels else self.num_heads


class TimestepEmbedSequential(nn.Sequential):
    """A sequence that hands the time embedding to the blocks that want it."""

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        for block in self:
            x = block(x, emb) if isinstance(block, ResBlock) else block(x)
        return x


class Upsample(nn.Module):
    """Twice the size by nearest neighbours, then a convolution if `use_conv`."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        if use_conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.use_conv = use_conv

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if self.use_conv else x


class Downsample(nn.Module):
    """Half the size by a strided convolution, or by averaging."""

    def __init__(self, channels: int, use_conv: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else nn.AvgPool2d(2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.op(x)


class ResBlock(nn.Module):
    """Two convolutions about the time embedding, and a skip; `resample` ("up", "down", "") works inside the block."""

    def __init__(
        self, channels: int, out_channels: int, emb_channels: int, params: UNetParams, resample: str = ""
    ) -> None:
        super().__init__()
        self.use_scale_shift_norm = params.use_scale_shift_norm
        self.resample: nn.Module = nn.Identity()
        if resample:
            self.resample = Upsample(channels, False) if resample == "up" else Downsample(channels, False)
        self.in_layers = nn.Sequential(
            normalization(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        emb_width = 2 * out_channels if params.use_scale_shift_norm else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, emb_width))
        self.out_layers = nn.Sequential(
            normalization(out_channels),
            nn.SiLU(),
            nn.Dropout(params.dropout),
            zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b c2 h2 w2"]:
        norm, activation, conv = self.in_layers
        h = conv(self.resample(activation(norm(x))))
        emb_out = self.emb_layers(emb)[:, :, None, None].type(h.dtype)
        if self.use_scale_shift_norm:
            scale, shift = emb_out.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + emb_out)
        return self.skip_connection(self.resample(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, with either order in which heads, queries, keys and values lie in `qkv`."""

    def __init__(self, channels: int, num_heads: int, use_new_attention_order: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.new_order = use_new_attention_order
        self.norm = normalization(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_module(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        tokens = x.flatten(2)  # b c n
        qkv = self.qkv(self.norm(tokens))  # b 3c n
        heads = (3, self.num_heads, -1) if self.new_order else (self.num_heads, 3, -1)
        qkv = qkv.unflatten(1, heads).transpose(-1, -2)
        q, k, v = qkv.unbind(1 if self.new_order else 2)  # b heads n e
        out = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).flatten(1, 2)  # b c n
        return x + self.proj_out(out).unflatten(2, x.shape[2:])


class UNetModel(nn.Module):
    """See the module. Starts at a zero output."""

    Params = UNetParams

    def __init__(self, params: UNetParams) -> None:
        super().__init__()
        if params.in_channels is None:
            raise ValueError("in_channels is needed")
        self.multiple = params.factors[-1]
        self.model_channels = width = params.model_channels
        emb = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(params.stem), nn.PixelShuffle(params.stem)
        first = nn.Conv2d(params.in_channels * params.stem**2, width, 3, padding=1)
        self.input_blocks = nn.ModuleList([TimestepEmbedSequential(first)])
        skips = self._encoder(params, emb)
        deepest = skips[-1]
        self.middle_block = TimestepEmbedSequential(
            ResBlock(deepest, deepest, emb, params),
            AttentionBlock(deepest, params.heads(deepest), params.use_new_attention_order),
            ResBlock(deepest, deepest, emb, params),
        )
        self.output_blocks = nn.ModuleList()
        self._decoder(params, emb, skips)
        last = zero_module(nn.Conv2d(width, params.out_channels * params.stem**2, 3, padding=1))
        self.out = nn.Sequential(normalization(width), nn.SiLU(), last)

    def _encoder(self, params: UNetParams, emb: int) -> list[int]:
        """Fill `input_blocks`; returns the width of every skip."""
        channels, skips = params.model_channels, [params.model_channels]
        for level, (factor, multiplier) in enumerate(zip(params.factors, params.channel_mult, strict=True)):
            for _ in range(params.num_res_blocks):
                out = multiplier * params.model_channels
                self.input_blocks.append(self._block(channels, out, emb, params, factor))
                channels = out
                skips.append(channels)
            if level < len(params.channel_mult) - 1:
                resample = (
                    ResBlock(channels, channels, emb, params, "down")
                    if params.resblock_updown
                    else Downsample(channels, params.conv_resample)
                )
                self.input_blocks.append(TimestepEmbedSequential(resample))
                skips.append(channels)
        return skips

    def _decoder(self, params: UNetParams, emb: int, skips: Sequence[int]) -> None:
        remaining, channels = list(skips), skips[-1]
        levels = list(zip(params.factors, params.channel_mult, strict=True))
        for level, (factor, multiplier) in reversed(list(enumerate(levels))):
            for i in range(params.num_res_blocks + 1):
                out = multiplier * params.model_channels
                block = self._block(channels + remaining.pop(), out, emb, params, factor)
                channels = out
                if level and i == params.num_res_blocks:
                    block.append(
                        ResBlock(channels, channels, emb, params, "up")
                        if params.resblock_updown
                        else Upsample(channels, params.conv_resample)
                    )
                self.output_blocks.append(block)

    @staticmethod
    def _block(channels: int, out: int, emb: int, params: UNetParams, factor: int) -> TimestepEmbedSequential:
        block = TimestepEmbedSequential(ResBlock(channels, out, emb, params))
        if factor in params.attention_resolutions:
            block.append(AttentionBlock(out, params.heads(out), params.use_new_attention_order))
        return block

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        emb = self.time_embed(timestep_embedding(t, self.model_channels))
        h = self.unshuffle(torch.cat([x_t, cond.maps()], 1))
        skips = []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], 1), emb)
        return Prediction(self.shuffle(self.out(h)).float())
