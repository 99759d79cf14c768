"""Networks of other authors as backbones: they get the condition as channels, and the output image is extracted."""

import inspect
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.errors import ConfigError
from dsdiff.layers.network_call import call_with_channels, find_call_form, network_name
from dsdiff.types import Condition, Prediction


class ExternalBackbone(nn.Module):
    """Adapts a network that is called as `network(x, t, c)`, or as `network(x, t)` with the condition in x.

    It returns an image, or an object with the image as `sample`. Examples of the second form are
    `monai.networks.nets.DiffusionModelUNet` and `diffusers.UNet2DModel`.

    Args:
        network: The network.
        multiple: Height and width of a slice must be multiples of it.

    Raises:
        ConfigError: The network has another signature.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple
        self.call_form = find_call_form(network)

    def forward(self, x_t: Float[Tensor, "b 1 h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """Predict from noisy slices; see `network_protocols.Backbone`.

        Args:
            x_t: The noisy slices.
            t: Timesteps.
            cond: The condition.

        Returns:
            The prediction.

        Raises:
            ConfigError: The network raises an error, or does not return an image.
        """
        return Prediction(call_with_channels(self.network, self.call_form, x_t, t, cond.maps()))


def check_output_shape(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], prediction: Any) -> None:
    """Compare the shape of the output with that of x_t: a hook after the forward of an external network.

    Args:
        network: The network.
        args: Positional arguments of its forward.
        kwargs: Keyword arguments of its forward.
        prediction: The result of its forward.

    Raises:
        ConfigError: It is not a prediction, or the shapes differ.
    """
    if not isinstance(prediction, Prediction):
        raise ConfigError(
            f"{network_name(network)} returns a {type(prediction).__name__}; a forward that takes cond, a Condition, "
            "must return a dsdiff.types.Prediction; rename cond to c to take channels and to return an image"
        )
    x_t = kwargs["x_t"] if "x_t" in kwargs else args[0]
    if prediction.value.shape != x_t.shape:
        raise ConfigError(
            f"the backbone returns {tuple(prediction.value.shape)} for an x_t of {tuple(x_t.shape)}; set its "
            "number of output channels in backbone.params (out_channels: 1)"
        )


def build_external(
    backbone: type[nn.Module], params: dict[str, Any], multiple: int | None, in_channels: int
) -> nn.Module:
    """Build a network of an external class.

    Args:
        backbone: The class.
        params: Its arguments. `in_channels` is added if the class takes it and it is not given.
        multiple: Height and width of a slice must be multiples of it; None if the class declares it.
        in_channels: Channels of x_t and the condition together.

    Returns:
        The network itself if its forward takes a `Condition`, otherwise an `ExternalBackbone`.

    Raises:
        ConfigError: The class does not accept its arguments, its forward has another signature, or `multiple` is
            unknown.
    """
    network = _instantiate(backbone, params, in_channels)
    call_form = find_call_form(network)
    declared_multiple: Any = getattr(network, "multiple", None)
    if declared_multiple is not None and multiple not in (None, declared_multiple):
        raise ConfigError(
            f"backbone.multiple is {multiple}, but {backbone.__name__} declares {declared_multiple}; remove it"
        )
    multiple = declared_multiple or multiple
    if multiple is None:
        raise ConfigError(
            f"{backbone.__name__} does not declare what the sides of a slice must be multiples of; set "
            "backbone.multiple, for example multiple: 8 for three halvings"
        )

    if call_form != "condition":
        return ExternalBackbone(network, multiple)
    network.multiple = multiple  # type: ignore[assignment]
    return network


def _instantiate(backbone: type[nn.Module], params: dict[str, Any], in_channels: int) -> nn.Module:
    try:
        if "in_channels" in inspect.signature(backbone).parameters:
            params = {"in_channels": in_channels, **params}
        network = backbone(**params)
    except Exception as error:  # the class may raise anything
        raise ConfigError(f"backbone.params: {backbone.__name__} does not accept them: {error}") from error

    if not isinstance(network, nn.Module):
        raise ConfigError(f"{backbone.__name__} makes a {type(network).__name__}; a torch.nn.Module is needed")
    return network
