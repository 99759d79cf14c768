"""Build the condition of a batch of slices from its sources."""

from typing import Literal

from jaxtyping import Bool, Float
from pydantic import model_validator
from torch import Tensor

from dsdiff.conditioning.disentangle import DisentangleConfig
from dsdiff.conditioning.edges import structure
from dsdiff.conditioning.encoder import EncoderParams
from dsdiff.schema import ConfigModel
from dsdiff.types import Condition, ConditionLayout, Fusion


class ConditioningConfig(ConfigModel):
    """What the network is told beside the sources.

    structure: the edge map given beside every source. encoder: none, one for all contrasts (shared), or one each.
    disentangle: losses on shared and specific features, summed (see `conditioning.disentangle`); empty for none.
    inject: structure and encoded maps as channels beside x_t (maps), or into the network at each of its scales.
    style: none, or the slice in the target's style (see `conditioning.style`), which is linear in each source or has
    curves; of curves the style of the training patients most like the case is told, unless another is given.
    """

    edges: Literal["sobel", "canny", "laplacian", "learned", "none"] = "none"
    encoder: Literal["none", "shared", "per_contrast"] = "none"
    encoder_params: EncoderParams = EncoderParams()
    disentangle: tuple[DisentangleConfig, ...] = ()
    fusion: Fusion = "concat"
    style: Literal["none", "linear", "curves"] = "none"

    @model_validator(mode="after")
    def _swapping_needs_an_encoder(self) -> "ConditioningConfig":
        if self.swaps and self.encoder == "none":
            raise ValueError("disentangle target 'swap' rebuilds contrasts from encoded maps; encoder is 'none'")
        return self

    @property
    def swaps(self) -> bool:
        """Whether contrasts are rebuilt from swapped codes."""
        return any(term.target == "swap" for term in self.disentangle)

    def layout(self, contrasts: tuple[str, ...], slab: int) -> ConditionLayout:
        """What the conditions built under this config will hold."""
        return ConditionLayout(
            contrasts,
            slab,
            edges=self.edges != "none",
            encoded=0 if self.encoder == "none" else self.encoder_params.channels,
            style=self.style != "none",
            fusion=self.fusion,
        )


def middle(sources: Float[Tensor, "b s d h w"]) -> Float[Tensor, "b s h w"]:
    """The slice itself, without its neighbours."""
    return sources[:, :, sources.shape[2] // 2]


def build(config: ConditioningConfig, sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]) -> Condition:
    """The part of the condition that needs no weights; structure is that of the slice in the middle of the slab."""
    return Condition(sources, present, structure(config.edges, middle(sources)), fusion=config.fusion)
