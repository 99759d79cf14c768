"""What a comparison has measured, kept as JSON: nothing is measured twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dsdiff.system.atomic import write_whole


def write(facts: object, file: Path) -> None:
    """Write facts as JSON, whole or not at all. Raises `OutputError` where that cannot be done."""
    write_whole(file, json.dumps(facts, indent=1) + "\n")


def once(file: Path, key: str, job: Callable[[], Any]) -> Any:
    """What a job gives, the first time; what the file says under this key ever after."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if key not in known:
        known[key] = job()
        write(known, file)
    return known[key]
