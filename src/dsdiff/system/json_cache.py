"""JSON: results of expensive measurements in a file, so that nothing is measured twice, and values that JSON lacks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dsdiff.system.atomic import atomic_write_text
from dsdiff.system.unicode_names import to_unicode_values


def write_json(content: object, file: Path) -> None:
    """Write a JSON file atomically.

    Args:
        content: Anything that `json` can write.
        file: Path of the file.

    Raises:
        OutputError: The file cannot be written.
    """
    atomic_write_text(file, json.dumps(to_unicode_values(content), indent=1) + "\n")


def cached(file: Path, key: str, job: Callable[[], Any]) -> Any:
    """Return the cached result of a job; run the job if the cache has none.

    Args:
        file: JSON file of the cache; it need not exist.
        key: Key of the result in the file.
        job: Computes the result, which `json` can write.

    Returns:
        The result.
    """
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if key not in results:
        results[key] = job()
        write_json(results, file)
    return results[key]


def replace_nan(value: Any) -> Any:
    """Replace NaN and infinity by None for JSON, at any depth.

    Args:
        value: Nested dictionaries, lists and numbers.

    Returns:
        The same with None.
    """
    if isinstance(value, dict):
        return {key: replace_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
