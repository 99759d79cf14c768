"""The convolutional vocabulary of the field: residual blocks that know the time, attention, and what they make up.

Names and order of the modules are those of guided-diffusion and latent-diffusion, so that weights trained there load.
Source: Ho et al. 2020 (arXiv:2006.11239), Dhariwal and Nichol 2021 (arXiv:2105.05233).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from dsdiff.layers.basic import BackboneParams, attention, normalization, run, zero_module


class ConvParams(BackboneParams):
    """The field's vocabulary of UNets. `attention_resolutions` are downsampling factors, those of `stem` included.

    stem: folds stem x stem pixels into channels before the first and after the last convolution (pixel unshuffle): the
    network works on a coarser grid at a stem**2-th of the cost.
    num_head_channels: width of a head; where it is None (or -1, the field's way to say so) there are `num_heads`.
    num_heads_upsample: heads in the decoder, where they differ and `legacy` is true. image_size changes nothing here.
    The last group is latent diffusion's: only the values that leave it out are taken.
    """

    model_channels: int = Field(64, ge=32, multiple_of=32)
    channel_mult: tuple[float, ...] = Field((1, 2, 4, 8), min_length=1)
    num_res_blocks: int | tuple[int, ...] = 2
    attention_resolutions: tuple[int, ...] = ()
    num_heads: int = Field(1, ge=-1)
    num_head_channels: int | None = Field(None, ge=1)
    num_heads_upsample: int = Field(-1, ge=-1)
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    conv_resample: bool = True
    use_new_attention_order: bool = False
    stem: int = Field(1, ge=1)

    image_size: int | tuple[int, int] | None = None
    legacy: bool = True
    dims: Literal[2] = 2
    num_classes: None = None
    adm_in_channels: None = None
    use_fp16: Literal[False] = False
    use_spatial_transformer: Literal[False] = False
    context_dim: None = None
    transformer_depth: Literal[1] = 1
    n_embed: None = None

    @field_validator("num_head_channels", mode="before")
    @classmethod
    def _minus_one_is_none(cls, value: object) -> object:
        return None if value == -1 else value

    @model_validator(mode="after")
    def _fits(self) -> "ConvParams":
        if not isinstance(self.num_res_blocks, int) and len(self.num_res_blocks) != len(self.channel_mult):
            raise ValueError(f"num_res_blocks {self.num_res_blocks} must be one number or {len(self.channel_mult)}")
        if min(self.blocks) < 1:
            raise ValueError(f"num_res_blocks is {self.num_res_blocks}; it must be 1 or more")
        if self.num_head_channels is None and self.num_heads < 1:
            raise ValueError("num_heads or num_head_channels is needed: both are -1")
        widths = self.widths
        if bad := [width for width in widths if width < 32 or width % 32]:
            raise ValueError(
                f"channel_mult {self.channel_mult} makes levels of {bad} channels; a width is 32, 64, 96 ..."
            )
        attended = {w for f, w in zip(self.factors, widths, strict=True) if f in self.attention_resolutions}
        for channels in sorted(attended | {widths[-1]}):
            for heads in {self.heads(channels), self.heads(channels, up=True)}:
                if heads == 0 or channels % (self.num_head_channels or heads):
                    raise ValueError(
                        f"{channels} channels do not divide into heads of {self.num_head_channels}"
                        if self.num_head_channels
                        else f"{channels} channels do not divide by {heads} heads"
                    )
        return self

    @property
    def factors(self) -> tuple[int, ...]:
        """Downsampling factor of each level."""
        return tuple(self.stem * 2**level for level in range(len(self.channel_mult)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(int(multiplier * self.model_channels) for multiplier in self.channel_mult)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Residual blocks of each level."""
        n = self.num_res_blocks
        return (n,) * len(self.channel_mult) if isinstance(n, int) else n

    @property
    def emb_channels(self) -> int:
        """Width of the time embedding."""
        return 4 * self.model_channels

    def heads(self, channels: int, up: bool = False) -> int:
        """Attention heads at a width, in the encoder or in the decoder."""
        if self.num_head_channels:
            return channels // self.num_head_channels
        separate = up and self.legacy and self.num_heads_upsample > 0  # latent diffusion ignores it where not legacy
        return self.num_heads_upsample if separate else self.num_heads

    @property
    def doubts(self) -> tuple[str, ...]:
        said = []
        if never := [str(factor) for factor in self.attention_resolutions if factor not in self.factors]:
            said.append(
                f"attention_resolutions {', '.join(never)} never occur: they are downsampling factors, and with "
                f"channel_mult {list(self.channel_mult)} there are {', '.join(map(str, self.factors))}"
            )
        if self.model_channels == 32 and not self.use_scale_shift_norm:
            said.append(
                "at 32 channels every group of the norm is one channel, and takes out again what the time embedding "
                "added: set use_scale_shift_norm or more model_channels"
            )
        return tuple(said)


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

    def __init__(self, channels: int, out_channels: int, params: ConvParams, resample: str = "") -> None:
        super().__init__()
        self.use_scale_shift_norm = params.use_scale_shift_norm
        self.resample: nn.Module = nn.Identity()
        if resample:
            self.resample = Upsample(channels, False) if resample == "up" else Downsample(channels, False)
        self.in_layers = nn.Sequential(
            normalization(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        emb_width = 2 * out_channels if params.use_scale_shift_norm else out_channels
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(params.emb_channels, emb_width))
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

    def __init__(self, channels: int, params: ConvParams, up: bool = False) -> None:
        super().__init__()
        self.num_heads = params.heads(channels, up)
        self.new_order, self.fused = params.use_new_attention_order, params.fused
        self.norm = normalization(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_module(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        tokens = x.flatten(2)  # b c n
        qkv = self.qkv(self.norm(tokens))  # b 3c n
        heads = (3, self.num_heads, -1) if self.new_order else (self.num_heads, 3, -1)
        qkv = qkv.unflatten(1, heads).transpose(-1, -2).contiguous()  # fused kernels take no other layout
        q, k, v = qkv.unbind(1 if self.new_order else 2)  # b heads n e
        out = attention(q, k, v, self.fused).transpose(-1, -2).flatten(1, 2)  # b c n
        return x + self.proj_out(out).unflatten(2, x.shape[2:])


def _block(channels: int, out: int, params: ConvParams, factor: int, up: bool) -> TimestepEmbedSequential:
    block = TimestepEmbedSequential(ResBlock(channels, out, params))
    if factor in params.attention_resolutions:
        block.append(AttentionBlock(out, params, up))
    return block


def encoder(in_channels: int, params: ConvParams) -> tuple[nn.ModuleList, list[int]]:
    """The blocks from the image to the coarsest level, and the width after each."""
    channels = params.widths[0]
    first = nn.Conv2d(in_channels * params.stem**2, channels, 3, padding=1)
    blocks, widths = nn.ModuleList([TimestepEmbedSequential(first)]), [channels]
    for level, (factor, out) in enumerate(zip(params.factors, params.widths, strict=True)):
        for _ in range(params.blocks[level]):
            blocks.append(_block(channels, out, params, factor, up=False))
            channels = out
            widths.append(channels)
        if level < len(params.channel_mult) - 1:
            down = ResBlock(channels, channels, params, "down") if params.resblock_updown else None
            blocks.append(TimestepEmbedSequential(down or Downsample(channels, params.conv_resample)))
            widths.append(channels)
    return blocks, widths


def middle(channels: int, params: ConvParams) -> TimestepEmbedSequential:
    """The blocks at the coarsest level."""
    return TimestepEmbedSequential(
        ResBlock(channels, channels, params), AttentionBlock(channels, params), ResBlock(channels, channels, params)
    )


def decoder(widths: Sequence[int], params: ConvParams) -> nn.ModuleList:
    """The blocks back to the image; each takes the skip of the encoder's block across, of the width given there."""
    blocks, remaining, channels = nn.ModuleList(), list(widths), widths[-1]
    levels = list(zip(params.factors, params.widths, strict=True))
    for level, (factor, out) in reversed(list(enumerate(levels))):
        for i in range(params.blocks[level] + 1):
            block = _block(channels + remaining.pop(), out, params, factor, up=True)
            channels = out
            if level and i == params.blocks[level]:
                up = ResBlock(channels, channels, params, "up") if params.resblock_updown else None
                block.append(up or Upsample(channels, params.conv_resample))
            blocks.append(block)
    return blocks


def time_embed(params: ConvParams) -> nn.Sequential:
    """What makes the sinusoids of t the embedding that blocks get."""
    emb = params.emb_channels
    return nn.Sequential(nn.Linear(params.model_channels, emb), nn.SiLU(), nn.Linear(emb, emb))


def head(params: ConvParams) -> nn.Sequential:
    """From features to the output, on the coarse grid of the stem; starts at zero."""
    width = params.widths[0]
    last = zero_module(nn.Conv2d(width, params.out_channels * params.stem**2, 3, padding=1))
    return nn.Sequential(normalization(width), nn.SiLU(), last)


def level_starts(params: ConvParams) -> list[int]:
    """Numbers of the encoder's blocks after which a level begins: the first, and every one that halves the size."""
    starts = [0]
    for n in params.blocks[:-1]:
        starts.append(starts[-1] + n + 1)
    return starts


def encode(
    blocks: Iterable[nn.Module],
    h: Float[Tensor, "b c h w"],
    emb: Float[Tensor, "b e"],
    use_checkpoint: bool,
    after: Callable[[int, Tensor], Tensor] = lambda i, h: h,
) -> list[Tensor]:
    """Features after each block of an encoder, the last being what goes on. `after` may change those of block i."""
    features = []
    for i, block in enumerate(blocks):
        h = after(i, run(block, h, emb, use_checkpoint=use_checkpoint))
        features.append(h)
    return features


def decode(
    blocks: Iterable[nn.Module],
    h: Float[Tensor, "b c h w"],
    skips: Sequence[Tensor],
    emb: Float[Tensor, "b e"],
    use_checkpoint: bool,
) -> Float[Tensor, "b c2 h2 w2"]:
    """A decoder's way up, taking the skips from the last to the first."""
    for block, skip in zip(blocks, reversed(skips), strict=True):
        h = run(block, torch.cat([h, skip], 1), emb, use_checkpoint=use_checkpoint)
    return h
