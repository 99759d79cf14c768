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


def check_answer(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], prediction: Prediction) -> None:
    """A hook after someone else's forward. Raises `ConfigError` where its answer has not the shape of x_t."""
    x_t = kwargs["x_t"] if "x_t" in kwargs else args[0]
    if prediction.value.shape != x_t.shape:
        raise ConfigError(
            f"the backbone's answer is {tuple(prediction.value.shape)} where x_t is {tuple(x_t.shape)}; see its "
            "number of output channels in backbone.params (out_channels: 1)"
        )


def adapted(backbone: type[nn.Module], params: dict[str, Any], multiple: int | None, in_channels: int) -> nn.Module:
    """A network of a class that is not ours: as it is if it declares `multiple` (see `types.Backbone`), else adapted.

    `in_channels` is handed over where the class has such an argument and the params leave it out. Raises `ConfigError`
    where the class refuses its params, or nobody says what the sides of a slice must be multiples of.
    """
    try:
        if "in_channels" in inspect.signature(backbone).parameters:
            params = {"in_channels": in_channels, **params}
        network = backbone(**params)
    except Exception as error:  # whatever the class raises, the params are what it was about
        raise ConfigError(f"backbone.params: {backbone.__name__} refuses them: {error}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{backbone.__name__} makes a {type(network).__name__}; a torch.nn.Module is needed")
    own = getattr(network, "multiple", None)
    if own is not None and multiple not in (None, own):
        raise ConfigError(f"backbone.multiple is {multiple}, but {backbone.__name__} says {own}; leave it out")
    if own is not None:
        return network
    if multiple is None:
        raise ConfigError(
            f"{backbone.__name__} does not say what the sides of a slice must be multiples of; set backbone.multiple, "
            "as in multiple: 8 for three halvings"
        )
    return Concatenated(network, multiple)
