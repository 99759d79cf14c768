"""The diffusion transformer with adaLN-Zero: time sets scale, shift and gate of every block; all gates start at zero.

Modules have the names and the order of the reference DiT, so that weights trained there load.
Source: Peebles and Xie 2023 (arXiv:2212.09748, section 3.2 and fig. 3), written from the paper.
"""

import torch
from jaxtyping import Float
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn

from dsdiff.layers.fusion import TokenFusion
from dsdiff.layers.primitives import maybe_checkpoint, zero_module
from dsdiff.layers.transformer_blocks import (
    Attention,
    Mlp,
    PatchEmbed,
    TimestepEmbedder,
    TransformerParams,
    interpolate_positions,
    sincos_positions,
    unpatchify,
)
from dsdiff.types import Condition, ConditionLayout, Prediction

# Defaults of the reference DiT (DiT-XL/2) that differ from ours.
REFERENCE_DEFAULTS = {"patch_size": 2, "hidden_size": 1152, "depth": 28, "num_heads": 16}


class DiTParams(TransformerParams):
    """The parameters of the reference DiT.

    Attributes:
        image_size: See `TransformerParams`. The reference calls it `input_size`, which is accepted too.
        patch_size: See `TransformerParams`.
        hidden_size: See `TransformerParams`.
        num_heads: See `TransformerParams`.
        num_classes: For weights that were trained with class labels. Every slice then has the label `class_label`.
        class_dropout_prob: If it is above 0, the reference keeps one more row of the label table for "no label".
        class_label: The label of every slice; by default the last row of the table.
        learn_sigma: Double the output channels, as the reference does for the variance.
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
    def _check_label(self) -> "DiTParams":
        if self.num_classes is None and self.class_label is not None:
            raise ValueError("class_label is given, but num_classes is not")
        if self.num_classes is not None and self.class_label is None and self.class_dropout_prob == 0:
            raise ValueError("class_label is needed: with class_dropout_prob 0 the table has no row for 'no label'")
        if self.class_label is not None and self.class_label >= self.n_labels:
            raise ValueError(f"class_label {self.class_label} is not among {self.n_labels} labels")
        return self

    @property
    def n_labels(self) -> int:
        """Rows of the label table.

        Returns:
            The number of classes, plus one if there is a row for "no label".
        """
        return (self.num_classes or 0) + int(self.class_dropout_prob > 0)

    @property
    def n_outputs(self) -> int:
        """Number of channels of `Prediction.value`.

        Returns:
            `out_channels`, doubled by `learn_sigma`.
        """
        return self.out_channels * (1 + int(self.learn_sigma))


class LabelEmbedder(nn.Module):
    """A table with one vector per label, initialized with a standard deviation of 0.02.

    Args:
        n_labels: Rows of the table.
        hidden_size: Features of a token.
    """

    def __init__(self, n_labels: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(n_labels, hidden_size)
        nn.init.normal_(self.embedding_table.weight, std=0.02)


def adaln_zero(hidden_size: int, n_vectors: int) -> nn.Sequential:
    """Build the adaLN-Zero layer: from the time embedding to shifts, scales and gates, all zero at the start.

    Args:
        hidden_size: Features of a token.
        n_vectors: Number of vectors.

    Returns:
        The layer.
    """
    return nn.Sequential(nn.SiLU(), zero_module(nn.Linear(hidden_size, n_vectors * hidden_size)))


def modulate(
    x: Float[Tensor, "b n e"], shift: Float[Tensor, "b 1 e"], scale: Float[Tensor, "b 1 e"]
) -> Float[Tensor, "b n e"]:
    """Scale tokens by 1 + scale, then shift them.

    Args:
        x: Tokens.
        shift: Added to each token.
        scale: Zero leaves the tokens as they are.

    Returns:
        Tokens of the same shape.
    """
    return x * (1 + scale) + shift


class DiTBlock(nn.Module):
    """Attention and MLP with adaLN-Zero. Starts as the identity.

    Args:
        params: Size of the transformer.
    """

    def __init__(self, params: TransformerParams) -> None:
        super().__init__()
        hidden_size = params.hidden_size
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(params)
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(params)
        self.adaLN_modulation = adaln_zero(hidden_size, 6)
        self.drop = nn.Dropout(params.dropout)

    def forward(self, x: Float[Tensor, "b n e"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b n e"]:
        """Run the block.

        Args:
            x: Tokens.
            emb: The time embedding.

        Returns:
            Tokens of the same shape.
        """
        modulation = self.adaLN_modulation(emb)[:, None]  # b 1 6e
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, -1)  # b 1 e
        x = x + gate_attn * self.drop(self.attn(modulate(self.norm1(x), shift_attn, scale_attn)))
        return x + gate_mlp * self.drop(self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp)))


class FinalLayer(nn.Module):
    """Converts tokens to the pixels of their patches, with adaLN-Zero. Starts at zero.

    Args:
        hidden_size: Features of a token.
        outputs: Pixels of a patch times output channels.
    """

    def __init__(self, hidden_size: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = zero_module(nn.Linear(hidden_size, outputs))
        self.adaLN_modulation = adaln_zero(hidden_size, 2)

    def forward(self, x: Float[Tensor, "b n e"], emb: Float[Tensor, "b e"]) -> Float[Tensor, "b n pixels"]:
        """Convert tokens to pixels.

        Args:
            x: Tokens.
            emb: The time embedding.

        Returns:
            The pixels of each patch.
        """
        shift, scale = self.adaLN_modulation(emb)[:, None].chunk(2, -1)  # b 1 e
        return self.linear(modulate(self.norm_final(x), shift, scale))


class DiT(nn.Module):
    """The diffusion transformer. Its output starts at zero.

    Args:
        params: Size of the network.
        layout: The channels of the condition.
    """

    Params = DiTParams

    def __init__(self, params: DiTParams, layout: ConditionLayout) -> None:
        super().__init__()
        self.params = params
        self.multiple = params.patch_size
        hidden_size = params.hidden_size
        self.x_embedder = PatchEmbed(1 + len(layout.map_channels), params.patch_size, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        if params.num_classes is not None:
            self.y_embedder = LabelEmbedder(params.n_labels, hidden_size)
        self.pos_embed = nn.Parameter(sincos_positions(params.grid, hidden_size), requires_grad=False)
        self.fusion = TokenFusion(hidden_size, layout)
        self.blocks = nn.ModuleList(DiTBlock(params) for _ in range(params.depth))
        self.final_layer = FinalLayer(hidden_size, params.patch_size**2 * params.n_outputs)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """Predict from noisy slices; see `network_protocols.Backbone`.

        Args:
            x_t: The noisy slices.
            t: Timesteps.
            cond: The condition.

        Returns:
            The prediction.
        """
        patch_size, (height, width) = self.params.patch_size, x_t.shape[-2:]
        grid = height // patch_size, width // patch_size
        positions = interpolate_positions(self.pos_embed, self.params.grid, grid)  # 1 n e

        tokens = self.x_embedder(torch.cat([x_t, cond.maps()], 1)) + positions  # b n e
        tokens = self.fusion(cond, tokens, grid)
        emb = self.t_embedder(t)  # b e
        if self.params.num_classes is not None:
            label = -1 if self.params.class_label is None else self.params.class_label
            emb = emb + self.y_embedder.embedding_table.weight[label]

        for block in self.blocks:
            tokens = maybe_checkpoint(block, tokens, emb, use_checkpoint=self.params.use_checkpoint)
        pixels = self.final_layer(tokens, emb)  # b n (p p c)

        return Prediction(unpatchify(pixels, height, patch_size).float())
