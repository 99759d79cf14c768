"""What all benchmarks share: the parser of their arguments, and how they write their results."""

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path("scripts/benchmarks/results")  # below the root of the repository, where the benchmarks are run
FIGURES = Path("docs/pictures")


def create_parser(description: str | None) -> argparse.ArgumentParser:
    """Create a parser that prints a description with its line breaks.

    Args:
        description: The docstring of the script.

    Returns:
        The parser.
    """
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def write_results(results: Any, file: Path) -> None:
    """Write results as JSON.

    Args:
        results: Anything that `json` can write.
        file: Path of the file; its folder is created.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def read_load_average() -> str:
    """Read how busy the machine is.

    Returns:
        Linux's load average over one minute; "unknown" on other systems.
    """
    file = Path("/proc/loadavg")
    return file.read_text(encoding="utf-8").split()[0] if file.exists() else "unknown"
