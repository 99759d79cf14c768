"""The three ways to call a denoising network. The signature of its forward tells which one a network has.

"condition": forward(x_t, t, cond) takes a `Condition`, as the backbones of dsdiff do. The parameter has that name.
"channels": forward(x, t, c) takes the condition as channels, (b, c, h, w).
"joined": forward(x, t) takes x_t and the condition as the channels of one image.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.errors import ConfigError, DsdiffError
from dsdiff.types import Condition, Prediction

CallForm = Literal["condition", "channels", "joined"]
CHANNEL_NAMES = ("c", "c_concat", "condition")  # names of an optional third parameter that takes channels
Predictor = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> output
MAX_CAUSE_LENGTH = 200  # characters of the message of another error


def find_call_form(network: Callable[..., Any]) -> CallForm:
    """Find how a network is called.

    Args:
        network: A module, or a function.

    Returns:
        The form of the call, see the module.

    Raises:
        ConfigError: The signature has none of the three forms.
    """
    inner_network = _unwrap(network)
    signature = inspect.signature(inner_network.forward if isinstance(inner_network, nn.Module) else inner_network)
    parameters = signature.parameters.values()
    is_positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in is_positional]
    is_variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    n_required = sum(
        parameter.default is inspect.Parameter.empty and parameter.kind not in is_variadic for parameter in parameters
    )

    third_name = names[2] if len(names) > 2 else None
    if third_name == "cond" and n_required <= 3:
        return "condition"
    if third_name is not None and (n_required == 3 or (n_required < 3 and third_name in CHANNEL_NAMES)):
        return "channels"
    if len(names) >= 2 and n_required <= 2:
        return "joined"
    raise ConfigError(
        f"{network_name(network)} has forward({', '.join(signature.parameters)}); dsdiff calls a network as "
        "forward(x, t, c), where c holds the condition channels, or as forward(x, t), where x holds them too"
    )


def _unwrap(network: Callable[..., Any]) -> Callable[..., Any]:
    """The network inside `torch.compile`, `DistributedDataParallel` or `DataParallel`."""
    inner_network = getattr(network, "_orig_mod", network)  # of torch.compile
    if isinstance(inner_network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return inner_network.module
    return inner_network


def bind_condition(network: Callable[..., Any], condition: Tensor | Condition) -> Predictor:
    """Build the function (x_t, t) -> output of a network under one condition, whatever form its call has.

    Args:
        network: A module, or a function.
        condition: Channels (b, c, h, w), or a `Condition`. A network with a conditioner takes channels as source
            contrasts.

    Returns:
        The function. Its output is (b, c, h, w) in float32.

    Raises:
        ConfigError: The signature of the network has no known form.
    """
    form = find_call_form(network)
    if form == "condition":
        cond = _to_condition(network, condition)
        return lambda x_t, t: extract_image(network, network(x_t, t, cond))

    channels = condition.maps() if isinstance(condition, Condition) else condition
    return lambda x_t, t: call_with_channels(network, form, x_t, t, channels)


def _to_condition(network: Callable[..., Any], condition: Tensor | Condition) -> Condition:
    if isinstance(condition, Condition):
        return condition
    sources = condition[:, :, None]  # b c 1 h w
    present = torch.ones(sources.shape[:2], dtype=torch.bool, device=sources.device)
    build_condition = getattr(_unwrap(network), "condition", None)
    if build_condition is not None:
        return build_condition(sources, present)
    return Condition(sources, present)


def call_with_channels(
    network: Callable[..., Any],
    form: CallForm,
    x_t: Float[Tensor, "b 1 h w"],
    t: Float[Tensor, " b"],
    channels: Float[Tensor, "b c h w"],
) -> Float[Tensor, "_ _ _ _"]:
    """Call a network of the form "channels" or "joined".

    Args:
        network: A module, or a function.
        form: The form of its call.
        x_t: The noisy slices.
        t: Timesteps.
        channels: The condition.

    Returns:
        Its output in float32.

    Raises:
        ConfigError: The network raises an error, or does not return an image.
    """
    arguments = (x_t, t, channels) if form == "channels" else (torch.cat([x_t, channels], 1), t)
    try:
        output = network(*arguments)
    except (DsdiffError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # code of another author may raise anything
        cause = " ".join(str(error).split())[:MAX_CAUSE_LENGTH]
        shapes = ", ".join(str(tuple(argument.shape)) for argument in arguments)
        raise ConfigError(
            f"{network_name(network)} raises {type(error).__name__} ({cause}) for arguments of the shapes {shapes}"
        ) from error
    return extract_image(network, output)


def extract_image(network: Callable[..., Any], output: Any) -> Float[Tensor, "_ _ _ _"]:
    """Extract the image from what a network returns.

    Args:
        network: The network, for the message.
        output: An image, a `Prediction`, or an object with the image as `sample`.

    Returns:
        The image in float32.

    Raises:
        ConfigError: There is no image.
    """
    image = output.value if isinstance(output, Prediction) else getattr(output, "sample", output)
    if not isinstance(image, Tensor) or image.ndim != 4:
        description = f"a tensor of {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(output).__name__}"
        raise ConfigError(f"{network_name(network)} returns {description}; an image (b, c, h, w) is needed")
    return image.float()


def network_name(network: Callable[..., Any]) -> str:
    """Name a network for a message.

    Args:
        network: A module, or a function.

    Returns:
        The name of its class, or of the function.
    """
    inner_network = _unwrap(network)
    if isinstance(inner_network, nn.Module):
        return type(inner_network).__name__
    return getattr(inner_network, "__name__", repr(inner_network))
