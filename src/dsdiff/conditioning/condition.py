"""The conditioning of a run, and the part of a condition that needs no weights."""

from typing import Literal

from jaxtyping import Bool, Float
from pydantic import model_validator
from torch import Tensor

from dsdiff.conditioning.disentangle import DisentangleConfig
from dsdiff.conditioning.edges import edge_maps
from dsdiff.conditioning.encoder import EncoderParams
from dsdiff.schema import ConfigModel
from dsdiff.style.regression import StyleKind
from dsdiff.types import Condition, ConditionLayout, Fusion


class ConditioningConfig(ConfigModel):
    """The inputs of a network besides the source contrasts.

    Attributes:
        edges: Operator of the edge map of every source; "learned" for a small network, "none" for no edge maps.
        encoder: "none", one condition encoder for all contrasts ("shared"), or one for each ("per_contrast").
        encoder_params: Size of the condition encoder.
        disentangle: Losses on shared and specific features, which add up (see `conditioning.disentangle`).
        fusion: How edges and encoder features enter the network: as channels beside x_t ("concat"), or at each of its
            scales ("spade").
        style: "none", or the slice rendered in the style of the target (see `conditioning.style_image`), which is
            "linear" in each source or has "curves". Synthesis takes the average linear style, or the curves of the
            most similar training patients, unless it gets a reference.
    """

    edges: Literal["sobel", "canny", "laplacian", "learned", "none"] = "none"
    encoder: Literal["none", "shared", "per_contrast"] = "none"
    encoder_params: EncoderParams = EncoderParams()
    disentangle: tuple[DisentangleConfig, ...] = ()
    fusion: Fusion = "concat"
    style: Literal["none"] | StyleKind = "none"

    @model_validator(mode="after")
    def _check_swap_loss(self) -> "ConditioningConfig":
        if self.has_swap_loss and self.encoder == "none":
            raise ValueError(
                "disentangle target 'swap' rebuilds contrasts from encoder features, but encoder is 'none': "
                "set conditioning.encoder to shared or per_contrast"
            )
        return self

    @property
    def has_swap_loss(self) -> bool:
        """Whether a loss rebuilds contrasts from swapped features.

        Returns:
            True if `disentangle` has the target "swap".
        """
        return any(term.target == "swap" for term in self.disentangle)

    def layout(self, contrasts: tuple[str, ...], context_slices: int) -> ConditionLayout:
        """Describe the conditions of this config.

        Args:
            contrasts: Names of the source contrasts.
            context_slices: Slices of each contrast.

        Returns:
            The layout.
        """
        return ConditionLayout(
            contrasts,
            context_slices,
            has_edges=self.edges != "none",
            encoder_channels=0 if self.encoder == "none" else self.encoder_params.channels,
            has_style=self.style != "none",
            fusion=self.fusion,
        )


def middle_slice(sources: Float[Tensor, "b s d h w"]) -> Float[Tensor, "b s h w"]:
    """Drop the context slices.

    Args:
        sources: Slices with their context slices.

    Returns:
        The middle slices only.
    """
    return sources[:, :, sources.shape[2] // 2]


def build_condition(
    config: ConditioningConfig, sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]
) -> Condition:
    """Build the part of a condition that needs no weights.

    Args:
        config: The conditioning of the run.
        sources: Robust z-scores.
        present: The contrasts that each case has.

    Returns:
        Sources and edge maps; the edges are those of the middle slice.
    """
    edges = edge_maps(config.edges, middle_slice(sources))
    return Condition(sources, present, edges, fusion=config.fusion)
