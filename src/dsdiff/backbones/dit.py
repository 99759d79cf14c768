"""The diffusion transformer with adaLN-Zero: time sets scale, shift and gate of every block; all gates start at zero.

Module names and their order are those of the reference DiT, so that weights trained there load.
Source: Peebles and Xie 2023 (arXiv:2212.09748, section 3.2 and fig. 3), written from the paper.
"""

import torch
from jaxtyping import Float
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn

from dsdiff.layers.basic import run, zero_module
from dsdiff.layers.injection import TokenInjection
from dsdiff.layers.transformer_blocks import (
    Attention,
    Mlp,
    PatchEmbed,
    TimestepEmbedder,
    TokenParams,
    positions,
    sincos_positions,
    unpatchify,
)
from dsdiff.types import Condition, ConditionLayout, Prediction


class DiTParams(TokenParams):
    """The reference's names; `input_size` is its word for image_size.

    num_classes: for weights trained with labels. Every slice then has the label `class_label`, by default the last
    row of the table, which the reference keeps for "no label" where class_dropout_prob is above 0.
    learn_sigma: as many channels again for the variance.
    """

    image_size: int | tuple[int, int] = Field(256, validation_alias=AliasChoices("image_size", "input_size"))
    patch_size: int = Field(8, ge=1)
    hidden_size: int = Field(384, ge=4, multiple_of=4)
    num_heads: int = Field(6, ge=1)
    num_classes: int | None = Field(None, ge=1)
    class_dropout_prob: float = Field(0.1, ge=0, le=1)
    class_label: int | None = Field(None, ge=0)
    learn_sigma: bool = False

    @model_validator(mode="after")
    def _label_fits(self) -> "DiTParams":
        if self.num_classes is None and self.class_label is not None:
            raise ValueError("class_label is given, but num_classes is not")
        if self.num_classes is not None and self.class_label is None and self.class_dropout_prob == 0:
            raise ValueError("class_label is needed: with class_dropout_prob 0 there is no label for none")
        if self.class_label is not None and self.class_label >= self.rows:
            raise ValueError(f"class_label {self.class_label} is not among {self.rows} labels")
        return self

    @property
    def rows(self) -> int:
        """Labels, the one for none among them."""
        return (self.num_classes or 0) + int(self.class_dropout_prob > 0)

    @property
    def outputs(self) -> int:
        """Channels that come out."""
        return self.out_channels * (1 + int(self.learn_sigma))


class LabelEmbedder(nn.Module):
    """One vector per class, and one for none."""

    def __init__(self, rows: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(rows, hidden_size)
        nn.init.normal_(self.embedding_table.weight, std=0.02)


class DiTBlock(nn.Module):
    """Attention and MLP on tokens normalised, scaled and shifted as the embedding says, and gated by it."""

    def __init__(self, params: TokenParams) -> None:
        super().__init__()
        width = params.hidden_size
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(params)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(params)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zero_module(nn.Linear(width, 6 * width)))
        self.drop = nn.Dropout(params.dropout)

    def forward(self, x: Float[Tensor, "b n e"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b n e"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(emb)[:, None].chunk(6, -1)  # b 1 e
        x = x + gate1 * self.drop(self.attn(modulate(self.norm1(x), shift1, scale1)))
        return x + gate2 * self.drop(self.mlp(modulate(self.norm2(x), shift2, scale2)))


class FinalLayer(nn.Module):
    """Tokens to pixels of patches."""

    def __init__(self, hidden_size: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = zero_module(nn.Linear(hidden_size, outputs))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), zero_module(nn.Linear(hidden_size, 2 * hidden_size)))

    def forward(self, x: Float[Tensor, "b n e"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b n pixels"]:
        shift, scale = self.adaLN_modulation(emb)[:, None].chunk(2, -1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def modulate(
    x: Float[Tensor, "b n e"], shift: Float[Tensor, "b 1 e"], scale: Float[Tensor, "b 1 e"]
) -> Float[Tensor, "b n e"]:
    """Scale about 1, then shift."""
    return x * (1 + scale) + shift


class DiT(nn.Module):
    """See the module. Starts at a zero output."""

    Params = DiTParams

    def __init__(self, params: DiTParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params, self.multiple = params, params.patch_size
        width = params.hidden_size
        self.x_embedder = PatchEmbed(1 + layout.channels, params.patch_size, width)
        self.t_embedder = TimestepEmbedder(width)
        if params.num_classes is not None:
            self.y_embedder = LabelEmbedder(params.rows, width)
        self.pos_embed = nn.Parameter(sincos_positions(params.grid, width), requires_grad=False)
        self.inject = TokenInjection(width, layout)
        self.blocks = nn.ModuleList(DiTBlock(params) for _ in range(params.depth))
        self.final_layer = FinalLayer(width, params.patch_size**2 * params.outputs)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        patch, (height, width) = self.params.patch_size, x_t.shape[-2:]
        grid = height // patch, width // patch
        placed = positions(self.pos_embed, self.params.grid, grid)
        tokens = self.inject(cond, self.x_embedder(torch.cat([x_t, cond.maps()], 1)) + placed, grid)  # b n e
        emb = self.t_embedder(t)  # b e
        if self.params.num_classes is not None:
            label = self.params.class_label
            emb = emb + self.y_embedder.embedding_table.weight[-1 if label is None else label]
        for block in self.blocks:
            tokens = run(block, tokens, emb, use_checkpoint=self.params.use_checkpoint)
        return Prediction(unpatchify(self.final_layer(tokens, emb), height, patch).float())
