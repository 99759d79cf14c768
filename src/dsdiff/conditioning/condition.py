"""Build the condition of a batch of slices from its sources."""

from typing import Literal

from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dsdiff.conditioning.structure import structure
from dsdiff.types import Condition, ConditionLayout


class ConditioningConfig(BaseModel):
    """`structure`: the edge map given beside every source."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    structure: Literal["sobel", "none"] = "sobel"

    def layout(self, contrasts: tuple[str, ...], slab: int) -> ConditionLayout:
        """What the conditions built under this config will hold."""
        return ConditionLayout(contrasts, slab, self.structure != "none")


def build(config: ConditioningConfig, sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]) -> Condition:
    """The condition of a batch; structure is that of the slice in the middle of the slab."""
    middle = sources[:, :, sources.shape[2] // 2]  # b s h w
    return Condition(sources, present, structure(config.structure, middle))
