"""Names of backbones, and how a `target` with its `params` becomes a network."""

import re
from importlib import import_module
from typing import Any, cast

from pydantic import Field, ValidationError
from torch import nn

from dsdiff.backbones import external
from dsdiff.errors import ConfigError, GeometryError
from dsdiff.layers.basic import BackboneParams
from dsdiff.schema import TargetConfig, format_validation_error
from dsdiff.types import Backbone, ConditionLayout

# name -> module and class. The class carries its pydantic model as `Params`; nothing is imported until it is asked for.
BACKBONES: dict[str, str] = {
    "unet": "dsdiff.backbones.unet:UNetModel",
    "disc_unet": "dsdiff.backbones.disc_unet:DisentangledUNet",
    "ds_unet": "dsdiff.backbones.ds_unet:DSUNet",
    "transformer": "dsdiff.backbones.transformer:Transformer",
    "vit": "dsdiff.backbones.vit:VisionTransformer",
    "dit": "dsdiff.backbones.dit:DiT",
    "hybrid": "dsdiff.backbones.hybrid:Hybrid",
    "resnet_attention": "dsdiff.backbones.resnet_attention:ResNetAttention",
    "smp_unet": "dsdiff.backbones.smp_unet:SmpUNet",
}
# The long names of the original system and of the libraries that a backbone stands for.
ALIASES: dict[str, str] = {
    "ldm.modules.diffusionmodules.openaimodel.UNetModel": "unet",
    "Disc_diff.guided_diffusion.unet.UNet_disc_Model": "disc_unet",
    "UNet_DS_Diff.model.DSUnetModel": "ds_unet",
    "ldm.modules.diffusionmodules.dit.DiT": "dit",
    "segmentation_models_pytorch.Unet": "smp_unet",
}


class BackboneTarget(TargetConfig):
    """multiple: for someone else's class alone, what the sides of a slice must be multiples of."""

    multiple: int | None = Field(None, ge=1)


DEFAULT = BackboneTarget(target="unet")


def register(name: str, path: str) -> None:
    """Make a class known for this process: `path` is "package.module:Class".

    Raises `ConfigError` for a name that is taken by another class, or a path that is not of that form.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", path):
        raise ConfigError(f"'{path}' does not name a class; it must be of the form package.module:Class")
    if BACKBONES.get(name, path) != path or name in ALIASES:
        raise ConfigError(f"backbone '{name}' is taken")
    BACKBONES[name] = path


def allow(target: str) -> None:
    """Let a dotted path be imported: for a config file that the user passes and trusts, never for a checkpoint."""
    if target not in ALIASES and target not in BACKBONES:
        register(target, ":".join(target.rsplit(".", 1)))


def name_of(target: str) -> str:
    """The registered name behind a name or an alias."""
    return ALIASES.get(target, target)


def summaries() -> dict[str, str]:
    """One line about each backbone: the first of its module."""
    modules = {name: import_module(path.split(":")[0]) for name, path in BACKBONES.items()}
    return {name: (module.__doc__ or name).splitlines()[0] for name, module in modules.items()}


def lookup(target: str) -> type[nn.Module]:
    """The class behind a registered name or alias. Raises `ConfigError` for any other: nothing else is imported."""
    name = name_of(target)
    if name not in BACKBONES:
        dotted = (
            "; a dotted path is imported only for a config file that you trust by --allow-code, which train, compare, "
            "backbones and synth take"
            if "." in target
            else ""
        )
        raise ConfigError(f"backbone '{target}' is unknown; there are: {', '.join(sorted(BACKBONES))}{dotted}")
    module, attribute = BACKBONES[name].split(":")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # whatever stands in someone's module
        raise ConfigError(f"backbone '{target}' cannot be imported: {type(error).__name__}: {error}") from error


def parse(spec: BackboneTarget) -> BackboneParams | None:
    """The checked params of a spec; None for someone else's class, which checks its own.

    Raises `ConfigError` for unknown or impossible ones.
    """
    if not is_ours(spec):
        return None
    if spec.multiple is not None:
        raise ConfigError(f"backbone.multiple is for classes named by a dotted path; '{spec.target}' knows its own")
    try:
        return lookup(spec.target).Params(**spec.params)  # type: ignore[attr-defined]
    except ValidationError as error:
        foreign_keys = sum(item["type"] == "extra_forbidden" for item in error.errors())
        swap = (
            "; to take a whole block, params and all: backbone=NAME (see dsdiff backbones)" if foreign_keys > 1 else ""
        )
        raise ConfigError(f"backbone.params of '{spec.target}': {format_validation_error(error)}{swap}") from error


def is_ours(spec: BackboneTarget) -> bool:
    """Whether the class is one that checks its params by `Params`, as those here do."""
    return hasattr(lookup(spec.target), "Params")


def doubts(spec: BackboneTarget) -> tuple[str, ...]:
    """What in a spec is legal but surely not meant, in words. Raises what `parse` raises."""
    params = parse(spec)
    return params.doubts if params else ()


def build(spec: BackboneTarget, layout: ConditionLayout) -> nn.Module:
    """The network of a spec, for conditions of this layout. It satisfies `types.Backbone`.

    Raises `ConfigError` for an unknown target, unknown or impossible params, and an `in_channels` that is not
    1 (x_t) + `layout.channels`. The network raises `GeometryError` for a slice whose sides are no multiples.
    """
    params = parse(spec)
    in_channels = 1 + layout.channels
    if params is None:
        if layout.injected:
            raise ConfigError(
                f"conditioning.fusion is 'spade', and '{spec.target}' is someone else's class, whose scales are its "
                "own: set conditioning.fusion to concat"
            )
        network = external.adapted(lookup(spec.target), spec.params, spec.multiple, in_channels)
        network.register_forward_pre_hook(_size_fits, with_kwargs=True)
        network.register_forward_hook(external.check_answer, with_kwargs=True)
        return network
    if params.in_channels not in (None, in_channels):
        raise ConfigError(
            f"backbone.params.in_channels is {params.in_channels}, but x_t and the condition make {in_channels}; "
            "leave it out, or change data.contrasts, data.context_slices or conditioning"
        )
    network = lookup(spec.target)(params, layout)
    network.register_forward_pre_hook(_size_fits, with_kwargs=True)
    return network


def _size_fits(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    multiple = cast(Backbone, network).multiple
    h, w = (kwargs["x_t"] if "x_t" in kwargs else args[0]).shape[-2:]
    if h % multiple or w % multiple:
        raise GeometryError(f"a slice is {h} x {w}; both sides must be multiples of {multiple}")
