"""A run's YAML with its key=value overrides: plain values, not yet validated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dsdiff.errors import ConfigError

_INSTALLED = Path(__file__).parent / "assets" / "configs"  # in a wheel; a source tree has them at its top
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[3] / "configs"
SWITCHED = ("process", "sampler", "loss")  # another target of these has other params


def ready(folder: str = "") -> list[str]:
    """Names of the configs that come with dsdiff, or of those in a folder of theirs."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def find(name_or_path: str | Path) -> Path:
    """A config file by path, or one that comes with dsdiff by its name. Raises `ConfigError` where there is neither."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    known = {found.stem: found for found in sorted(CONFIGS.rglob("*.yaml"))}
    if str(name_or_path) not in known:
        raise ConfigError(f"{path}: no such config file, nor one of: {', '.join(known)}")
    return known[str(name_or_path)]


def read(path: Path, overrides: tuple[str, ...] = ()) -> Any:
    """The plain values of a YAML with its overrides, not yet validated. Raises `ConfigError`."""
    if bad := [item for item in overrides if "=" not in item]:
        raise ConfigError(f"override '{bad[0]}' is not of the form key=value (as in training.steps=100)")
    swaps = [item for item in overrides if item.startswith("backbone=")]
    others = [item for item in overrides if item not in swaps]
    try:
        given: Any = OmegaConf.load(path)
        for item in swaps:
            given = _with_backbone(given, find(item.split("=", 1)[1]))
        _refuse_parts_of_what_is_off(given, others)
        changes = OmegaConf.from_dotlist(others)
        for key in map(str, changes if isinstance(given, DictConfig) else ()):
            if OmegaConf.is_list(changes[key]):
                given.pop(key, None)  # a list takes the place of whatever was there, as of a single term of the loss
            elif OmegaConf.is_list(given.get(key)):
                raise ConfigError(f"{path} has a list of {key}: a change of it is the whole list, as '{key}=[{{...}}]'")
            elif key in SWITCHED and _target(changes[key]) not in (None, _target(given.get(key))):
                given.pop(key, None)  # what it was set to is of no use to another
        return OmegaConf.to_container(OmegaConf.merge(given, changes), resolve=False)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"{path} is not a config ({str(error).splitlines()[0]})") from error


def _target(block: Any) -> Any:
    return block.get("target") if OmegaConf.is_dict(block) else None


def _refuse_parts_of_what_is_off(given: Any, overrides: Sequence[str]) -> None:
    """Raise `ConfigError` for a change within a block that is false: the block's defaults would come on with it."""
    off = {key for key, value in (item.split("=", 1) for item in overrides) if value.strip().lower() == "false"}
    for key in (item.split("=", 1)[0] for item in overrides):
        parts = key.split(".")
        for block in (".".join(parts[:n]) for n in range(1, len(parts))):
            if block in off or OmegaConf.select(given, block) is False:
                raise ConfigError(
                    f"{block} is false, and {key} would turn all of its defaults on; turn off one by one what is not "
                    "wanted, as in data.augment.flip.probability=0"
                )


def _with_backbone(config: Any, file: Path) -> DictConfig:
    """The config with the whole backbone block of another YAML."""
    names = ("backbone", "unet_config")
    try:
        given = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError, TypeError) as error:
        raise ConfigError(f"backbone={file}: not a config ({str(error).splitlines()[0]})") from error
    blocks = [block for name, block in given.items() if name in names] if isinstance(given, dict) else []
    if len(blocks) != 1:
        raise ConfigError(f"backbone={file}: the file must have one backbone block, it has {len(blocks)}")
    kept = {name: block for name, block in config.items() if name not in names}
    return OmegaConf.create({**kept, "backbone": blocks[0]})
