"""The vocabulary of transformers on images: patches, positions for any size, self-attention blocks.

Module names are those of timm, which the reference DiT uses.
Source: Vaswani et al. 2017 (arXiv:1706.03762), Dosovitskiy et al. 2021 (ViT, arXiv:2010.11929).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dsdiff.layers.basic import BackboneParams, attention, embedded


class TokenParams(BackboneParams):
    """The field's vocabulary of transformers. image_size: the size, in pixels, whose positions are stored; those of
    other sizes are interpolated."""

    image_size: int | tuple[int, int] = 256
    patch_size: int = Field(16, ge=1)
    hidden_size: int = Field(512, ge=4, multiple_of=4)
    depth: int = Field(12, ge=1)
    num_heads: int = Field(8, ge=1)
    mlp_ratio: float = Field(4.0, ge=0.25)

    @model_validator(mode="after")
    def _fits(self) -> "TokenParams":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        height, width = self.size
        if height < 1 or width < 1 or height % self.patch_size or width % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width whose positions are stored."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across an image of that size."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer started as transformers start it: Xavier weights, no bias.

    Source: Glorot and Bengio 2010 (eq. 16).
    """
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    zero_bias(layer)
    return layer


def zero_bias(layer: nn.Linear | nn.Conv2d) -> None:
    """No bias to start with."""
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class PatchEmbed(nn.Module):
    """Square patches, each a token, row by row."""

    def __init__(self, channels: int, patch_size: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, hidden_size, patch_size, patch_size)
        nn.init.xavier_uniform_(self.proj.weight.flatten(1))
        zero_bias(self.proj)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n e"]:
        return self.proj(x).flatten(2).transpose(1, 2)


def unpatchify(tokens: Float[Tensor, "b n e"], height: int, patch_size: int) -> Float[Tensor, "b c h w"]:
    """The image of `height` pixels whose patches are the tokens, pixels before channels in each."""
    rows = height // patch_size
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=patch_size, q=patch_size)


def sincos_positions(grid: tuple[int, int], hidden_size: int) -> Float[Tensor, "1 n e"]:
    """Fixed positions: a quarter of the channels each for sine and cosine of the column, then of the row.

    Source: the 2-D form of Vaswani et al. 2017 (section 3.5) in the order in which DiT (arXiv:2212.09748) stores it.
    """
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    omega = 10000.0 ** -(torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size // 4))
    parts = []
    for position in (columns, rows):
        angles = position.flatten()[:, None].double() * omega
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, 1).float()[None]


def positions(table: Float[Tensor, "1 n e"], grid: tuple[int, int], wanted: tuple[int, int]) -> Float[Tensor, "1 m e"]:
    """Positions for a grid of patches, interpolated (bicubic) from those of the grid of the table.

    Source: Dosovitskiy et al. 2021 (arXiv:2010.11929, section 3.2).
    """
    image = rearrange(table, "1 (h w) e -> 1 e h w", h=grid[0])
    return F.interpolate(image, wanted, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over tokens."""

    def __init__(self, params: TokenParams) -> None:
        super().__init__()
        self.num_heads, self.fused = params.num_heads, params.fused
        self.qkv = linear(params.hidden_size, 3 * params.hidden_size)
        self.proj = linear(params.hidden_size, params.hidden_size)

    def forward(self, x: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
        q, k, v = rearrange(self.qkv(x), "b n (three heads e) -> three b heads n e", three=3, heads=self.num_heads)
        return self.proj(rearrange(attention(q, k, v, self.fused), "b heads n e -> b n (heads e)"))


class Mlp(nn.Module):
    """Two linear layers with a GELU (tanh approximation) between them."""

    def __init__(self, params: TokenParams) -> None:
        super().__init__()
        inner = int(params.hidden_size * params.mlp_ratio)
        self.fc1, self.fc2 = linear(params.hidden_size, inner), linear(inner, params.hidden_size)

    def forward(self, x: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class TransformerBlock(nn.Module):
    """Attention and MLP, each on normalised tokens and added to them."""

    def __init__(self, params: TokenParams) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(params.hidden_size), Attention(params)
        self.norm2, self.mlp = nn.LayerNorm(params.hidden_size), Mlp(params)
        self.drop = nn.Dropout(params.dropout)

    def forward(self, x: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class TimestepEmbedder(nn.Module):
    """The timestep as a vector: sinusoids through an MLP."""

    def __init__(self, hidden_size: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(linear(frequencies, hidden_size), nn.SiLU(), linear(hidden_size, hidden_size))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b e"]:
        return embedded(self.mlp, t, self.frequencies)


def learnt_positions(n: int, hidden_size: int) -> nn.Parameter:
    """A table of positions to be learnt, started small."""
    return nn.Parameter(torch.empty(1, n, hidden_size).normal_(std=0.02))
