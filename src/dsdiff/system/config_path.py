"""Paths in a config: `~` is the home folder, and a config is valid Unicode in every locale."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from dsdiff.system.unicode_names import to_file_name, to_unicode


def _parse_path(value: Any) -> Any:
    """Expand `~`. Raise `ValueError` for a name that YAML reads as something else, such as 2024 or `a: b`."""
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise ValueError(f"a path is needed, YAML reads {value!r}; put the path in quotes")
    return Path(to_file_name(os.path.expanduser(value)))  # noqa: PTH111, which raises for an unknown ~user


def _format_path(path: Path | None) -> str | None:
    return None if path is None else to_unicode(str(path))


OptionalPath = Annotated[Path | None, BeforeValidator(_parse_path), PlainSerializer(_format_path, when_used="json")]
