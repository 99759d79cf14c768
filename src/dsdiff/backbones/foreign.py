"""Someone else's network as a backbone: the condition is concatenated to x_t and the answer taken out."""

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.errors import ConfigError
from dsdiff.types import Condition, Prediction


class Concatenated(nn.Module):
    """A network that is called as `network(x, t)` and returns an image, or an object with the image as `sample`.

    So do `monai.networks.nets.DiffusionModelUNet` and `diffusers.UNet2DModel`.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        answer = self.network(torch.cat([x_t, cond.maps()], 1), t)
        return Prediction((answer if isinstance(answer, Tensor) else answer.sample).float())


def adapted(backbone: type[nn.Module], params: dict[str, Any], multiple: int | None, in_channels: int) -> nn.Module:
    """A network of a class that is not ours: as it is if it declares `multiple` (see `types.Backbone`), else adapted.

    `in_channels` is handed over where the class has such an argument and the params leave it out. Raises `ConfigError`
    where the class refuses its params, or nobody says what the sides of a slice must be multiples of.
    """
    if "in_channels" in inspect.signature(backbone).parameters:
        params = {"in_channels": in_channels, **params}
    try:
        network = backbone(**params)
    except Exception as error:  # whatever the class raises, the params are what it was about
        raise ConfigError(f"backbone.params: {backbone.__name__} refuses them: {error}") from error
    if hasattr(network, "multiple"):
        return network
    if multiple is None:
        raise ConfigError(
            f"{backbone.__name__} does not say what the sides of a slice must be multiples of; set backbone.multiple, "
            "as in multiple: 8 for three halvings"
        )
    return Concatenated(network, multiple)
