"""Find config files and read them with key=value overrides, as plain values that are not yet validated."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from dsdiff.config.yaml_file import describe_yaml_error, read_yaml
from dsdiff.errors import ConfigError

_INSTALLED = Path(__file__).parents[1] / "assets" / "configs"  # in a wheel; a source tree has them at its top
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[3] / "configs"
TARGET_BLOCKS = ("process", "sampler", "loss")  # the params of one target mean nothing to another
BACKBONE_KEYS = ("backbone", "unet_config")
READ_ERRORS = (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError, IndexError)


def list_configs(folder: str = "") -> list[str]:
    """List the configs that are installed with dsdiff.

    Args:
        folder: A folder of `configs/`, or "" for its top level.

    Returns:
        Names, sorted.
    """
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def find_config(name_or_path: str | Path) -> Path:
    """Find a config file.

    Args:
        name_or_path: A YAML file, or the name of a config that is installed with dsdiff.

    Returns:
        The file.

    Raises:
        ConfigError: There is no such file and no such name.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path

    installed_configs = {file.stem: file for file in sorted(CONFIGS.rglob("*.yaml"))}
    if str(name_or_path) not in installed_configs:
        similar_names = get_close_matches(str(name_or_path), installed_configs, 5, cutoff=0.5) or list_configs(".")
        raise ConfigError(
            f"{path}: no such config file; give a YAML file or a name from configs/, such as {', '.join(similar_names)}"
        )

    return installed_configs[str(name_or_path)]


def list_config_folders(names_or_paths: Iterable[str | Path], overrides: Iterable[str] = ()) -> list[Path]:
    """List the folders of config files, for modules that lie beside them.

    Args:
        names_or_paths: See `find_config`.
        overrides: key=value; `backbone=FILE` names a config file, too.

    Returns:
        The folders.

    Raises:
        ConfigError: There is no such file and no such name.
    """
    backbone_files = [text.removeprefix("backbone=") for text in overrides if text.startswith("backbone=")]
    return [find_config(file).parent for file in (*names_or_paths, *backbone_files)]


def read_config(path: Path, overrides: tuple[str, ...] = (), resolve: bool = True) -> Any:
    """Read a YAML file and apply overrides.

    Args:
        path: The file.
        overrides: key=value with dotted keys; `backbone=FILE` takes the backbone block of another YAML.
        resolve: Whether to replace `${...}` and `None` (see `resolve_values`).

    Returns:
        Plain values, not yet validated.

    Raises:
        ConfigError: The file is not a config, or an override cannot be applied.
    """
    values = apply_overrides(read_yaml(path), overrides, path)
    return resolve_values(values, str(path), overrides) if resolve else values


def resolve_values(values: Any, source: str, overrides: tuple[str, ...] = ()) -> Any:
    """Replace `${key}` and `${oc.env:NAME}` by what they refer to, and the word None by null.

    Args:
        values: Plain values of a config.
        source: The file, for the message.
        overrides: The overrides that are part of the values, for the message.

    Returns:
        The values without interpolations.

    Raises:
        ConfigError: An interpolation refers to nothing, or a value is ???.
    """
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(values), resolve=True, throw_on_missing=True)
    except READ_ERRORS as error:
        key = getattr(error, "full_key", None) or "a value"
        related, is_whole = find_overrides(key.split("."), overrides)
        source = f"override {related[-1]}" if is_whole else source
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{source}: {key} is ???, a value to be filled in; give {key}=VALUE") from error
        reason = _first_line(error).rpartition("interpolation: ")[2]
        raise ConfigError(
            f"{source}: {key} refers to something that does not exist ({reason}); ${{a.b}} refers to a key of the "
            "config, ${oc.env:NAME} to a variable of the environment"
        ) from error
    return _replace_none(resolved)


def _replace_none(value: Any) -> Any:
    """Replace the word None, which YAML reads as text."""
    if isinstance(value, dict):
        return {key: _replace_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_none(item) for item in value]
    return None if value == "None" else value


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def apply_overrides(values: Any, overrides: tuple[str, ...], path: Path) -> Any:
    """Apply overrides to a config.

    Args:
        values: The config, as plain values.
        overrides: See `read_config`.
        path: File of the config, for the message.

    Returns:
        Plain values, not yet validated.

    Raises:
        ConfigError: An override cannot be applied.
    """
    for override in overrides:
        _check_override(override)

    backbone_files = [override.split("=", 1)[1] for override in overrides if override.startswith("backbone=")]
    key_overrides = [override for override in overrides if not override.startswith("backbone=")]
    try:
        config: Any = OmegaConf.create(values) if isinstance(values, dict) else values
        for file in backbone_files:
            config = _replace_backbone(config, find_config(file))
        _check_disabled_blocks(config, key_overrides)

        changes = OmegaConf.from_dotlist(key_overrides)
        if isinstance(config, DictConfig):
            _drop_replaced_keys(config, changes, path)

        return OmegaConf.to_container(OmegaConf.merge(config, changes), resolve=False)
    except READ_ERRORS as error:
        if overrides:
            raise ConfigError(
                f"{' '.join(overrides)}: these overrides do not fit {path} ({_first_line(error)})"
            ) from error
        raise ConfigError(f"{path} is not a config ({_first_line(error)})") from error


def _check_override(override: str) -> None:
    """Raise `ConfigError` if an override cannot be read, whatever the config."""
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override '{override}' is not of the form key=value (e.g. training.steps=100)")

    try:
        OmegaConf.from_dotlist([override])
    except YAMLError as error:
        reason = describe_yaml_error(error, value).partition(": ")[2]  # line and column of so short a text say little
        raise ConfigError(
            f"override '{override}' cannot be read: {reason}; quote a text, as {key}='\"...\"'"
        ) from error
    except READ_ERRORS as error:
        raise ConfigError(
            f"override '{override}': its key cannot be read; give dotted keys, as training.steps=100"
        ) from error


def find_overrides(key: Sequence[str], overrides: Iterable[str]) -> tuple[list[str], bool]:
    """Find the overrides that a wrong key of a config may come from.

    Args:
        key: Parts of the key. Numbers, which count the terms of a list, are skipped.
        overrides: key=value.

    Returns:
        The overrides that set all of its value, and True; else those that set a part of it, and False.
    """
    parts = [part for part in key if not part.isdigit()]
    whole_overrides: list[str] = []
    partial_overrides: list[str] = []
    for override in overrides:
        override_parts = override.partition("=")[0].partition("[")[0].split(".")
        depth = min(len(parts), len(override_parts))
        if depth and parts[:depth] == override_parts[:depth]:
            overrides_of_kind = whole_overrides if depth == len(override_parts) else partial_overrides
            overrides_of_kind.append(override)
    return (whole_overrides, True) if whole_overrides else (partial_overrides, False)


def _drop_replaced_keys(config: DictConfig, changes: DictConfig, path: Path) -> None:
    """Remove the keys whose new values replace the old ones instead of merging with them."""
    for key in map(str, changes):
        if OmegaConf.is_list(changes[key]):
            config.pop(key, None)
        elif OmegaConf.is_list(config.get(key)):
            raise ConfigError(f"{path} has a list for {key}: override the whole list, as '{key}=[{{...}}]'")
        elif key in TARGET_BLOCKS and _target(changes[key]) not in (None, _target(config.get(key))):
            config.pop(key, None)


def _target(block: Any) -> Any:
    return block.get("target") if OmegaConf.is_dict(block) else None


def _check_disabled_blocks(config: Any, overrides: Sequence[str]) -> None:
    """Raise `ConfigError` for an override inside a block that is false: it would turn on all defaults of the block."""
    pairs = [override.split("=", 1) for override in overrides]
    disabled_blocks = {key for key, value in pairs if value.strip().lower() == "false"}
    for key, _ in pairs:
        for block in _enclosing_blocks(key):
            if block in disabled_blocks or OmegaConf.select(config, block) is False:
                raise ConfigError(
                    f"{block} is false, and {key} would turn on all of its defaults; leave {block} on and turn off "
                    "what you do not want, e.g. data.augment.flip.probability=0"
                )


def _enclosing_blocks(key: str) -> Iterable[str]:
    """Return "a" and "a.b" for "a.b.c"."""
    parts = key.split(".")
    return (".".join(parts[:depth]) for depth in range(1, len(parts)))


def _replace_backbone(config: Any, file: Path) -> DictConfig:
    """Return the config with the backbone block of another YAML."""
    try:
        values = OmegaConf.to_container(read_yaml(file), resolve=True)
    except ConfigError as error:
        raise ConfigError(f"override backbone={file}: {error}") from error
    except READ_ERRORS as error:
        raise ConfigError(f"override backbone={file}: not a config ({_first_line(error)})") from error

    blocks = [block for key, block in values.items() if key in BACKBONE_KEYS] if isinstance(values, dict) else []
    if len(blocks) != 1:
        raise ConfigError(f"backbone={file}: the file must have one backbone block, it has {len(blocks)}")

    other_blocks = {key: block for key, block in config.items() if key not in BACKBONE_KEYS}
    return OmegaConf.create({**other_blocks, "backbone": blocks[0]})
