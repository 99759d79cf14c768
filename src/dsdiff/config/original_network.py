"""Convert the network of a foreign config: a dotted target with its parameters.

What would change the network and cannot be done here is refused. Parameters that have no effect in the original are
noted. No class that a file names is imported.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import AliasChoices, ValidationError

from dsdiff.backbones import registry
from dsdiff.config.imported import ConfigKeys
from dsdiff.errors import ConfigError
from dsdiff.layers import unet_params
from dsdiff.layers.params import BackboneParams
from dsdiff.schema import format_validation_error

CONTRASTS = ("t1", "t2", "flair")

# Parameters that must have this value (or none), with the reason why another is refused.
REQUIRED_VALUES: dict[str, tuple[Any, str]] = {
    "dims": (2, "the networks of dsdiff are 2-D; data.context_slices gives them neighboring slices"),
    "use_spatial_transformer": (
        False,
        "the network attends to a condition such as text, which dsdiff does not have; its conditions are images",
    ),
    "num_classes": (None, "the network has a class or image embedding, which dsdiff does not have"),
    "n_embed": (None, "the network predicts entries of a codebook; dsdiff predicts voxels"),
    "num_attention_blocks": (
        None,
        "dsdiff puts attention after every block of the levels in attention_resolutions",
    ),
    "use_edge": (
        False,
        "the edge map enters the stream of the noisy image; in dsdiff those of conditioning.edges enter the streams of "
        "their contrasts",
    ),
}
INERT_PARAMS = unet_params.INERT_PARAMS | {
    "image_size": "no effect there; networks of dsdiff take slices of any size, data.crop is the training size",
}
PRECISION = "training.precision decides"


def convert_network(keys: ConfigKeys, prefix: str, target: str, contrasts: Sequence[str]) -> dict[str, Any]:
    """Convert the parameters of a network.

    Args:
        keys: The file. The keys of the network are taken, and reasons for a refusal are added.
        prefix: Dotted name of the block that holds the parameters, with a final dot; "" for the whole file.
        target: The class, by its name in the original or in dsdiff.
        contrasts: The contrasts that the network takes.

    Returns:
        The `backbone` block of a config.

    Raises:
        ConfigError: The target is unknown, or a value is invalid.
    """
    params_class = getattr(registry.lookup(target), "Params", None)
    if params_class is None:
        raise ConfigError(f"'{target}' is a class of your own; only the networks of dsdiff can be imported")

    name = registry.registered_name(target)
    is_unet = issubclass(params_class, unet_params.UNetParams)
    valid_names = _parameter_names(params_class)
    _check_required_values(keys, prefix, {"num_classes"} & valid_names if not is_unet else set())
    for param in ("use_fp16", "use_bf16"):
        if keys.take(f"{prefix}{param}", False):
            keys.add_note(f"{prefix}{param}", True, PRECISION)

    params: dict[str, Any] = {}
    if not has_streams(target):
        params = {"in_channels": 1 + len(contrasts), "out_channels": 1}
    for key in [key for key in keys.remaining if key.startswith(prefix)]:
        param = key.removeprefix(prefix)
        if param in INERT_PARAMS and (param != "image_size" or is_unet):
            keys.note_present(key, INERT_PARAMS[param])
        elif param in valid_names:
            value = keys.take(key)
            if value is not None and value != -1:  # both mean that another key decides
                params[param] = value
        else:
            keys.add_refusal(key, keys.take(key), f"the {name} of dsdiff has no such parameter")
    defaults, structure = registry.reference_params(target)
    params = defaults | params | structure

    try:
        params_class(**params)
    except ValidationError as error:
        block = prefix.rstrip(".") or "the file"
        raise ConfigError(f"{block}, parameters of '{target}': {format_validation_error(error)}") from error

    return {"target": name, "params": params}


def has_streams(target: str) -> bool:
    """Whether a network has one encoder for each image, so that in_channels counts the channels of one image.

    Args:
        target: Its name in the original or in dsdiff.

    Returns:
        True for the networks of DisC-Diff and DS-Diff.
    """
    return getattr(registry.lookup(target), "returns_feature_pairs", False)


def convert_contrasts(keys: ConfigKeys, key: str, target: str) -> tuple[str, ...]:
    """Find the contrasts that a network takes by its input channels.

    Args:
        keys: The file. The key is taken.
        key: Dotted name of `in_channels`.
        target: Name of the network in the original or in dsdiff.

    Returns:
        The contrasts. Without the key: all.
    """
    if keys.remaining.get(key) is None:
        keys.take(key)
        return CONTRASTS
    channels = keys.take_count(key, 1 + len(CONTRASTS))

    if has_streams(target):
        if channels != 1:
            keys.add_refusal(key, channels, "every stream of the network takes one image, which is one channel")
        return CONTRASTS

    if channels == 1:
        keys.add_refusal(key, channels, "the network takes no condition; those of dsdiff take x_t and the contrasts")
    if channels > 1 + len(CONTRASTS):
        keys.add_note(
            key,
            channels,
            f"its trainer takes the number of contrasts plus 1 if that is less; dsdiff takes x_t and "
            f"{len(CONTRASTS)} contrasts, {1 + len(CONTRASTS)} channels",
        )
    contrasts = CONTRASTS[: max(1, channels - 1)]
    if len(contrasts) < len(CONTRASTS):
        keys.add_note(key, channels, f"x_t and {len(contrasts)} contrasts; put yours in data.contrasts, in their order")

    return contrasts


def check_outputs(keys: ConfigKeys, key: str, learns_variance: bool) -> None:
    """Refuse a network that returns anything but one image (and the variance of a step).

    Args:
        keys: The file. The key is taken.
        key: Dotted name of `out_channels`.
        learns_variance: Whether the file asks for a learned variance, which doubles the channels.
    """
    channels = keys.take(key)
    if channels is None or channels == 1 or (channels == 2 and learns_variance):
        return
    keys.add_refusal(
        key,
        channels,
        "the network returns latents of an autoencoder or several images; those of dsdiff return one image, the T1ce",
    )


def _parameter_names(params_class: type[BackboneParams]) -> set[str]:
    """Names of parameters, with their other names in the field."""
    names = set(params_class.model_fields)
    for field in params_class.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            names |= {str(choice) for choice in field.validation_alias.choices}
    return names


def _check_required_values(keys: ConfigKeys, prefix: str, valid_names: set[str]) -> None:
    """Refuse values that would change the network, except of parameters that this network has."""
    for param, (required_value, reason) in REQUIRED_VALUES.items():
        if param in valid_names:
            continue
        value = keys.take(f"{prefix}{param}")
        if value is not None and value != required_value:
            keys.add_refusal(f"{prefix}{param}", value, reason)
