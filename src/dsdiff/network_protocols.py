"""Protocols of networks: what a backbone is, and what synthesis needs of a network."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from dsdiff.types import Condition, Prediction


@runtime_checkable
class Backbone(Protocol):
    """A denoising network. It does not know schedules, losses, slices or files.

    `t` is on the scale of the field's integer timesteps: 0 to 1000, or to T - 1 for a DDPM of T. It may be fractional.

    Attributes:
        multiple: Height and width of a slice must be multiples of it.
    """

    multiple: int

    def __call__(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction: ...


@runtime_checkable
class ConditionalNetwork(Protocol):
    """A backbone together with what builds its condition: a trained network, an engine or an exported network.

    Attributes:
        multiple: Height and width of a slice must be multiples of it.
    """

    @property
    def multiple(self) -> int: ...

    def condition(
        self,
        sources: Float[Tensor, "b s d h w"],
        present: Bool[Tensor, "b s"],
        style: Float[Tensor, "b 1 h w"] | None = None,
    ) -> Condition: ...

    def __call__(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction: ...
