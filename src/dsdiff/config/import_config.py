"""Import configs of latent diffusion, guided-diffusion and the original system.

Every key is converted or reported with the reason why not. What would change the network and cannot be done here is an
error. No class that a file names is imported.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsdiff.config import guided_diffusion, latent_diffusion, train_config
from dsdiff.config.imported import ConfigKeys, ImportedConfig
from dsdiff.config.overrides import read_config
from dsdiff.config.run import parse_config
from dsdiff.errors import ConfigError

FAMILIES = (
    "latent diffusion has model.params.unet_config.target, guided-diffusion has num_channels and diffusion_steps, a "
    "train_config or inference_config of the original has net_mode"
)


def import_config(path: Path) -> ImportedConfig:
    """Convert a config file of latent diffusion, of guided-diffusion or of the original system.

    Args:
        path: The YAML file. For a train_config, the file of its network is read too.

    Returns:
        The config, with notes on what was not converted.

    Raises:
        ConfigError: The file is of no such family, or asks for something that dsdiff does not have.
    """
    values = read_config(path, resolve=False)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no keys with values: it is not a config; {FAMILIES}")

    try:
        config, keys, family = _convert(values, path)
        keys.check_refusals(str(path))
        run_config = parse_config(config, str(path))
    except ConfigError as error:
        one_line = " ".join(str(error).split())  # a value of the file may have several
        raise ConfigError(one_line) from error
    unused = keys.describe_unused(family.REASONS, family.IMPLIED_VALUES)

    return ImportedConfig(run_config, (*keys.notes, *unused))


def _convert(values: Mapping[Any, Any], path: Path) -> tuple[dict[str, Any], ConfigKeys, Any]:
    """Return plain values of a config, the keys of the file, and the module that knows its family."""
    model = values.get("model")
    params = model.get("params") if isinstance(model, Mapping) else None
    unet_config = params.get("unet_config") if isinstance(params, Mapping) else None
    if isinstance(unet_config, Mapping) and "target" in unet_config:
        return *latent_diffusion.convert_latent_diffusion(values), latent_diffusion
    if "net_mode" in values and values.get("config_opt") is not None:
        return *train_config.convert_train_config(values, path), train_config
    if "net_mode" in values:
        return *train_config.convert_inference_config(values), train_config
    if "num_channels" in values or "diffusion_steps" in values:
        return *guided_diffusion.convert_guided_diffusion(values), guided_diffusion

    if isinstance(params, Mapping) and "ddconfig" in params:
        raise ConfigError(f"{path} describes an autoencoder; dsdiff has none, since its diffusion works on voxels")
    if "backbone" in values or "unet_config" in values:
        raise ConfigError(f"{path} is a config of dsdiff already; dsdiff train takes it as it is")
    raise ConfigError(f"{path} is of no family that dsdiff imports: {FAMILIES}")
