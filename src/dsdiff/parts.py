"""What the blocks of a config have in common, and what is wrong with one in words."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Part(BaseModel):
    """A block of the YAML: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(Part):
    """The field's way to name a part: `target` is a registered name, `params` are its arguments."""

    target: str
    params: dict[str, Any] = {}


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
