"""Names of backbones, and how a `target` with its `params` becomes a network."""

from importlib import import_module
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from dsdiff.errors import ConfigError

# name -> module and class. The class carries its pydantic model as `Params`; nothing is imported until it is asked for.
BACKBONES: dict[str, str] = {
    "unet": "dsdiff.backbones.unet:UNetModel",
}
ALIASES: dict[str, str] = {
    "ldm.modules.diffusionmodules.openaimodel.UNetModel": "unet",
}


class Target(BaseModel):
    """The field's way to name a part: `target` is a registered name, `params` are its arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    params: dict[str, Any] = {}


def lookup(target: str) -> type[nn.Module]:
    """The class behind a registered name or alias. Raises `ConfigError` for any other: nothing else is imported."""
    name = ALIASES.get(target, target)
    if name not in BACKBONES:
        raise ConfigError(f"backbone '{target}' is unknown; there are: {', '.join(sorted(BACKBONES))}")
    module, attribute = BACKBONES[name].split(":")
    return getattr(import_module(module), attribute)


def build(spec: Target, cond_channels: int) -> nn.Module:
    """The network of a spec, for a condition of `cond_channels` maps. It satisfies `types.Backbone`.

    Raises `ConfigError` for an unknown target, unknown or impossible params, and an `in_channels` that is not
    1 (x_t) + `cond_channels`.
    """
    backbone = lookup(spec.target)
    try:
        params = backbone.Params(**spec.params)  # type: ignore[attr-defined]
    except ValidationError as error:
        raise ConfigError(f"backbone.params of '{spec.target}': {explain(error)}") from error
    in_channels = 1 + cond_channels
    if params.in_channels not in (None, in_channels):
        raise ConfigError(
            f"backbone.params.in_channels is {params.in_channels}, but x_t and the condition make {in_channels}; "
            "leave it out, or change data.contrasts, data.slab or conditioning.structure"
        )
    return backbone(params.model_copy(update={"in_channels": in_channels}))


def explain(error: ValidationError) -> str:
    """A validation error in one line: every key with what is wrong with it."""
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"])) or "values"
        unknown = item["type"] == "extra_forbidden"
        said = "there is no such key" if unknown else item["msg"].removeprefix("Value error, ")
        found = "" if item["type"] in ("missing", "value_error", "extra_forbidden") else f" (found {item['input']!r})"
        lines.append(f"{key}: {said}{found}")
    return "; ".join(lines)
