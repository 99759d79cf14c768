"""Building blocks of transformers on images: patches, positions for any size, self-attention blocks.

Modules have the names of timm, which the reference DiT uses.
Source: Vaswani et al. 2017 (arXiv:1706.03762), Dosovitskiy et al. 2021 (ViT, arXiv:2010.11929).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from dsdiff.layers.params import BackboneParams
from dsdiff.layers.primitives import attention, embed_timestep


class TransformerParams(BackboneParams):
    """The field's parameters of transformers.

    Attributes:
        image_size: Size in pixels for which positions are stored; they are interpolated for other sizes.
        patch_size: Pixels along each side of a patch.
        hidden_size: Features of a token.
        depth: Number of blocks.
        num_heads: Attention heads of each block.
        mlp_ratio: Hidden features of the MLP over `hidden_size`.
    """

    image_size: int | tuple[int, int] = 256
    patch_size: int = Field(16, ge=1)
    hidden_size: int = Field(512, ge=4, multiple_of=4)
    depth: int = Field(12, ge=1)
    num_heads: int = Field(8, ge=1)
    mlp_ratio: float = Field(4.0, ge=0.25)

    @model_validator(mode="after")
    def _check_sizes(self) -> "TransformerParams":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        height, width = self.size
        if height < 1 or width < 1 or height % self.patch_size or width % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width for which positions are stored.

        Returns:
            Both in pixels.
        """
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches along height and width of an image of that size.

        Returns:
            Rows and columns.
        """
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size


def xavier_linear(inputs: int, outputs: int) -> nn.Linear:
    """Build a linear layer with the initialization of transformers: Xavier weights, zero bias.

    Args:
        inputs: Input features.
        outputs: Output features.

    Returns:
        The layer.

    Source: Glorot and Bengio 2010 (eq. 16).
    """
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def learned_positions(n: int, hidden_size: int) -> nn.Parameter:
    """Build a table of learned positions, initialized with a standard deviation of 0.02.

    Args:
        n: Number of positions.
        hidden_size: Features of a token.

    Returns:
        (1, n, hidden_size).
    """
    return nn.Parameter(torch.empty(1, n, hidden_size).normal_(std=0.02))


class PatchEmbed(nn.Module):
    """Cuts an image into square patches and makes each a token.

    Args:
        channels: Channels of the image.
        patch_size: Pixels along each side of a patch.
        hidden_size: Features of a token.
    """

    def __init__(self, channels: int, patch_size: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, hidden_size, patch_size, patch_size)
        nn.init.xavier_uniform_(self.proj.weight.flatten(1))
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n e"]:
        """Embed the patches.

        Args:
            x: Images.

        Returns:
            Tokens, row by row.
        """
        return self.proj(x).flatten(2).transpose(1, 2)


def unpatchify(tokens: Float[Tensor, "b n e"], height: int, patch_size: int) -> Float[Tensor, "b c h w"]:
    """Put an image together from tokens that hold the pixels of its patches.

    Args:
        tokens: One per patch, row by row; in each, pixels before channels.
        height: Height of the image in pixels.
        patch_size: Pixels along each side of a patch.

    Returns:
        The images.
    """
    rows = height // patch_size
    return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=patch_size, q=patch_size)


def sincos_positions(grid: tuple[int, int], hidden_size: int) -> Float[Tensor, "1 n e"]:
    """Compute fixed positions: a quarter of the features each for sine and cosine of the column, then of the row.

    Args:
        grid: Rows and columns of patches.
        hidden_size: Features of a token, a multiple of 4.

    Returns:
        A table of positions, row by row.

    Source: the 2-D form of Vaswani et al. 2017 (section 3.5) in the order in which DiT (arXiv:2212.09748) stores it.
    """
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    omega = 10000.0 ** -(torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size // 4))
    parts = []
    for coordinate in (columns, rows):
        angles = coordinate.flatten()[:, None].double() * omega  # n e/4
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, 1).float()[None]


def interpolate_positions(
    table: Float[Tensor, "1 n e"], table_grid: tuple[int, int], grid: tuple[int, int]
) -> Float[Tensor, "1 m e"]:
    """Interpolate a table of positions (bicubic) to another grid of patches.

    Args:
        table: Positions, row by row.
        table_grid: Rows and columns of the table.
        grid: Rows and columns of the result.

    Returns:
        Positions of that grid.

    Source: Dosovitskiy et al. 2021 (arXiv:2010.11929, section 3.2).
    """
    image = rearrange(table, "1 (h w) e -> 1 e h w", h=table_grid[0])
    return F.interpolate(image, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over tokens.

    Args:
        params: Size of the transformer.
    """

    def __init__(self, params: TransformerParams) -> None:
        super().__init__()
        self.num_heads = params.num_heads
        self.fused = params.fused
        self.qkv = xavier_linear(params.hidden_size, 3 * params.hidden_size)
        self.proj = xavier_linear(params.hidden_size, params.hidden_size)

    def forward(self, x: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
        """Attend from every token to every token.

        Args:
            x: Tokens.

        Returns:
            Tokens of the same shape.
        """
        q, k, v = rearrange(self.qkv(x), "b n (three heads e) -> three b heads n e", three=3, heads=self.num_heads)
        out = attention(q, k, v, self.fused)  # b heads n e
        return self.proj(rearrange(out, "b heads n e -> b n (heads e)"))


class Mlp(nn.Module):
    """Two linear layers with a GELU (tanh approximation) between them.

    Args:
        params: Size of the transformer.
    """

    def __init__(self, params: TransformerParams) -> None:
        super().__init__()
        hidden_features = int(params.hidden_size * params.mlp_ratio)
        self.fc1 = xavier_linear(params.hidden_size, hidden_features)
        self.fc2 = xavier_linear(hidden_features, params.hidden_size)

    def forward(self, x: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
        """Transform every token by itself.

        Args:
            x: Tokens.

        Returns:
            Tokens of the same shape.
        """
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class TransformerBlock(nn.Module):
    """Attention and MLP with residual connections, each on normalized tokens.

    Args:
        params: Size of the transformer.
    """

    def __init__(self, params: TransformerParams) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(params.hidden_size)
        self.attn = Attention(params)
        self.norm2 = nn.LayerNorm(params.hidden_size)
        self.mlp = Mlp(params)
        self.drop = nn.Dropout(params.dropout)

    def forward(self, x: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
        """Run the block.

        Args:
            x: Tokens.

        Returns:
            Tokens of the same shape.
        """
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class TimestepEmbedder(nn.Module):
    """Embeds the timestep by sinusoids and an MLP.

    Args:
        hidden_size: Features of the embedding.
        frequencies: Number of sinusoids.
    """

    def __init__(self, hidden_size: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(
            xavier_linear(frequencies, hidden_size), nn.SiLU(), xavier_linear(hidden_size, hidden_size)
        )

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b e"]:
        """Embed timesteps.

        Args:
            t: Timesteps.

        Returns:
            One vector per timestep.
        """
        return embed_timestep(self.mlp, t, self.frequencies)
