"""What the blocks of a config have in common, what is wrong with one in words, and in what two differ."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigModel(BaseModel):
    """A block of the YAML: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TargetConfig(ConfigModel):
    """The field's way to name a part: `target` is a registered name, `params` are its arguments."""

    target: str
    params: dict[str, Any] = {}


def format_validation_error(error: ValidationError) -> str:
    """A validation error in one line: every key with what is wrong with it."""
    lines = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"])) or "values"
        unknown = item["type"] == "extra_forbidden"
        said = "there is no such key" if unknown else item["msg"].removeprefix("Value error, ")
        found = "" if item["type"] in ("missing", "value_error", "extra_forbidden") else f" (found {item['input']!r})"
        lines.append(f"{key}: {said}{found}")
    return "; ".join(lines)


def flat(part: ConfigModel) -> dict[str, Any]:
    """A config by dotted keys."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if not (isinstance(value, dict) and value):
            return iter([(prefix, value)])
        return chain.from_iterable(walk(f"{prefix}.{key}".lstrip("."), part) for key, part in value.items())

    return dict(walk("", part.model_dump(mode="json")))


def differences(there: ConfigModel, here: ConfigModel) -> dict[str, tuple[Any, Any]]:
    """What two configs say differently, by dotted keys."""
    a, b = flat(there), flat(here)
    return {key: (a.get(key), b.get(key)) for key in a | b if a.get(key) != b.get(key)}
