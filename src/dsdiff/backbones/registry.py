"""Names of backbones, and the way from a `target` with its `params` to a network."""

import re
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from pydantic import Field, ValidationError
from torch import Tensor, nn

from dsdiff.backbones import external
from dsdiff.errors import ConfigError, GeometryError
from dsdiff.layers.params import BackboneParams
from dsdiff.network_protocols import Backbone
from dsdiff.schema import TargetConfig, format_validation_error
from dsdiff.types import ConditionLayout

# Name -> module and class. The class has its pydantic model as `Params`. A module is imported when it is needed.
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
# The long names of the original system, and of libraries.
REFERENCE_UNET = "ldm.modules.diffusionmodules.openaimodel.UNetModel"
REFERENCE_DISC_UNET = "Disc_diff.guided_diffusion.unet.UNet_disc_Model"
ALIASES: dict[str, str] = {
    REFERENCE_UNET: "unet",
    REFERENCE_DISC_UNET: "disc_unet",
    "UNet_DS_Diff.model.DSUnetModel": "ds_unet",
    "ldm.modules.diffusionmodules.dit.DiT": "dit",
    "segmentation_models_pytorch.Unet": "smp_unet",
}


class BackboneTarget(TargetConfig):
    """The backbone of a config.

    Attributes:
        multiple: Height and width of a slice must be multiples of it. Only for external classes, which may not declare
            it.
    """

    multiple: int | None = Field(None, ge=1)


DEFAULT = BackboneTarget(target="unet")


def register(name: str, path: str) -> None:
    """Add a backbone to the registry of this process.

    Args:
        name: Its name in configs.
        path: "package.module:Class".

    Raises:
        ConfigError: The name belongs to another class, or the path has another form.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", path):
        raise ConfigError(f"'{path}' does not name a class; it must be of the form package.module:Class")
    if BACKBONES.get(name, path) != path or name in ALIASES:
        raise ConfigError(f"backbone '{name}' is already registered; choose another name")
    BACKBONES[name] = path


def trust_class(target: str, folders: Iterable[Path] = ()) -> None:
    """Permit the import of a class by its dotted path: for a config file that the user trusts, never for a checkpoint.

    Args:
        target: The target of a config. Registered names and aliases need no permission.
        folders: Folders of the config. A module that lies there is found, after all installed modules.

    Raises:
        ConfigError: The target is not a dotted path, or its module has the name of an installed one.
    """
    if target in ALIASES or (target in BACKBONES and "." not in target):
        return
    if "." not in target:
        raise ConfigError(f"'{target}' does not name a class; write the module, too, as in my_module.{target}")
    register(target, ":".join(target.rsplit(".", 1)))
    for folder in folders:
        _add_import_folder(target.split(".")[0], folder.resolve())


def _add_import_folder(package: str, folder: Path) -> None:
    """Let Python find the modules of a folder. It is last, so that no file in it replaces an installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    for file in (folder / f"{package}.py", folder / package / "__init__.py"):
        spec = find_spec(package) if file.is_file() else None
        if spec is not None and spec.origin != str(file):
            raise ConfigError(f"{file} has the name of another module, {spec.origin}; rename it")


def registered_name(target: str) -> str:
    """Resolve an alias.

    Args:
        target: A name or an alias.

    Returns:
        The name.
    """
    return ALIASES.get(target, target)


def reference_params(target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Find the parameters that the class of a long name has without being told.

    Args:
        target: A name or an alias. Only an alias names a class of another program.

    Returns:
        Its defaults that differ from ours, and the parameters that give our network its structure.
    """
    if target not in ALIASES:
        return {}, {}
    module = import_module(BACKBONES[ALIASES[target]].split(":")[0])
    return dict(getattr(module, "REFERENCE_DEFAULTS", {})), dict(getattr(module, "ORIGINAL_STRUCTURE", {}))


def summaries() -> dict[str, str]:
    """Describe all backbones.

    Returns:
        Name -> the first line of the module's docstring.
    """
    modules = {name: import_module(path.split(":")[0]) for name, path in BACKBONES.items()}
    return {name: (module.__doc__ or name).splitlines()[0] for name, module in modules.items()}


def lookup(target: str) -> type[nn.Module]:
    """Import the class of a backbone.

    Args:
        target: A registered name or an alias. Nothing else is imported.

    Returns:
        The class.

    Raises:
        ConfigError: The name is not registered, or its import fails.
    """
    name = registered_name(target)
    if name not in BACKBONES:
        hint = ""
        if "." in target:
            hint = (
                "; a dotted path is imported only for a config file that you trust by --allow-code, an option of "
                "train, compare, backbones and synth"
            )
        raise ConfigError(f"backbone '{target}' is unknown; there are: {', '.join(sorted(BACKBONES))}{hint}")

    module, attribute = BACKBONES[name].split(":")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # an external module may raise anything
        raise ConfigError(f"backbone '{target}' cannot be imported: {type(error).__name__}: {error}") from error


def parse(spec: BackboneTarget) -> BackboneParams | None:
    """Validate the parameters of a backbone.

    Args:
        spec: The backbone of a config.

    Returns:
        The parameters; None for an external class, which validates its own.

    Raises:
        ConfigError: A parameter is unknown or invalid.
    """
    if not is_builtin(spec):
        return None
    if spec.multiple is not None:
        raise ConfigError(
            f"backbone.multiple is for classes named by a dotted path; '{spec.target}' declares its own: remove it"
        )

    try:
        return lookup(spec.target).Params(**spec.params)  # type: ignore[attr-defined]
    except ValidationError as error:
        n_unknown_keys = sum(item["type"] == "extra_forbidden" for item in error.errors())
        hint = ""
        if n_unknown_keys > 1:
            hint = "; to replace the whole block with its params, use backbone=NAME (see dsdiff backbones)"
        raise ConfigError(f"backbone.params of '{spec.target}': {format_validation_error(error)}{hint}") from error


def is_builtin(spec: BackboneTarget) -> bool:
    """Whether the class validates its parameters by `Params`, as the backbones of dsdiff do.

    Args:
        spec: The backbone of a config.

    Returns:
        False for an external class.
    """
    return hasattr(lookup(spec.target), "Params")


def params_warnings(spec: BackboneTarget) -> tuple[str, ...]:
    """Find parameters that are legal but probably a mistake.

    Args:
        spec: The backbone of a config.

    Returns:
        A sentence for each.

    Raises:
        ConfigError: See `parse`.
    """
    params = parse(spec)
    return params.warnings if params else ()


def build(spec: BackboneTarget, layout: ConditionLayout) -> nn.Module:
    """Build the network of a backbone. It satisfies `network_protocols.Backbone`.

    The network raises `GeometryError` for a slice whose sides are not multiples of `multiple`.

    Args:
        spec: The backbone of a config.
        layout: The channels of the condition.

    Returns:
        The network.

    Raises:
        ConfigError: The target is unknown, a parameter is unknown or invalid, or `in_channels` is not
            1 (x_t) + `len(layout.map_channels)`.
    """
    params = parse(spec)
    in_channels = 1 + len(layout.map_channels)
    if params is None:
        return _build_external(spec, layout, in_channels)

    if params.in_channels not in (None, in_channels):
        raise ConfigError(
            f"backbone.params.in_channels is {params.in_channels}, but x_t and the condition have {in_channels}; "
            "remove it, or change data.contrasts, data.context_slices or conditioning"
        )
    network = lookup(spec.target)(params, layout)
    network.register_forward_pre_hook(_check_size, with_kwargs=True)
    return network


def _build_external(spec: BackboneTarget, layout: ConditionLayout, in_channels: int) -> nn.Module:
    if layout.fused_channels:
        raise ConfigError(
            f"conditioning.fusion is 'spade', but '{spec.target}' is an external class without SPADE layers: "
            "set conditioning.fusion to concat"
        )
    network = external.build_external(lookup(spec.target), spec.params, spec.multiple, in_channels)
    network.register_forward_pre_hook(_check_size, with_kwargs=True)
    network.register_forward_hook(external.check_output_shape, with_kwargs=True)
    return network


def _check_size(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    x_t = kwargs["x_t"] if "x_t" in kwargs else args[0]
    check_slice_size(x_t, cast(Backbone, network).multiple)


def check_slice_size(x_t: Tensor, multiple: int) -> None:
    """Check that a network accepts the size of a slice.

    Args:
        x_t: Slices, (b, c, h, w).
        multiple: See `network_protocols.Backbone`.

    Raises:
        GeometryError: A side is not a multiple.
    """
    h, w = x_t.shape[-2:]
    if h % multiple or w % multiple:
        raise GeometryError(f"a slice is {h} x {w}; both sides must be multiples of {multiple}")
