"""Base classes of config blocks, and how to describe errors in a config and differences between two."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigModel(BaseModel):
    """A block of a YAML config. It is immutable and refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TargetConfig(ConfigModel):
    """A class and its arguments, as in configs of the latent-diffusion family.

    Attributes:
        target: A registered name.
        params: Keyword arguments.
    """

    target: str
    params: dict[str, Any] = {}


def format_validation_error(error: ValidationError, key_hints: Mapping[str, str] | None = None) -> str:
    """Describe a validation error in one line.

    Args:
        error: The error.
        key_hints: For a key that does not exist, by its last part, the key to use.

    Returns:
        Each wrong key with what is wrong about it.
    """
    descriptions = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"])) or "values"
        problem = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            problem = "there is no such key"
            if hint := (key_hints or {}).get(str(item["loc"][-1])):
                problem += f", use {hint}"
        elif item["type"] == "model_type" and item["input"] is None:
            problem = "the block is empty; indent its keys below it, or remove it"
        elif item["type"] not in ("missing", "value_error"):
            problem += f" (found {item['input']!r})"
        descriptions.append(f"{key}: {problem}")
    return "; ".join(descriptions)


def flatten_config(config: ConfigModel) -> dict[str, Any]:
    """Flatten a config.

    Args:
        config: The config.

    Returns:
        By dotted key, the value. An empty block is a value.
    """
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if not isinstance(value, dict) or not value:
            flat[prefix] = value
            return
        for key, item in value.items():
            add(f"{prefix}.{key}" if prefix else key, item)

    add("", config.model_dump(mode="json"))
    return flat


def diff_configs(a: ConfigModel, b: ConfigModel) -> dict[str, tuple[Any, Any]]:
    """Compare two configs.

    Args:
        a: A config.
        b: Another config.

    Returns:
        By dotted key, the two values if they differ. A missing key counts as None.
    """
    flat_a, flat_b = flatten_config(a), flatten_config(b)
    return {key: (flat_a.get(key), flat_b.get(key)) for key in flat_a | flat_b if flat_a.get(key) != flat_b.get(key)}
