"""Read one YAML file. A message names the line, the column and what is wrong there."""

import io
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from dsdiff.errors import ConfigError

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
SPACE = " "


def read_yaml(path: Path) -> DictConfig:
    """Read a YAML file with keys and values.

    Args:
        path: The file: UTF-8, or UTF-16 with a byte order mark.

    Returns:
        Its values; interpolations are not resolved.

    Raises:
        ConfigError: The file cannot be read, or it holds no keys with values.
    """
    text = _read_text(path)
    _check_indentation(text, path)
    try:
        values: Any = OmegaConf.load(io.StringIO(text))
    except YAMLError as error:
        raise ConfigError(f"{path} is not a config: {describe_yaml_error(error, text)}") from error
    except (OmegaConfBaseException, OSError, ValueError, TypeError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{path} is not a config ({reason}); give keys with values, as in configs/") from error

    if not isinstance(values, DictConfig):
        raise ConfigError(f"{path} is not a config: it holds a list; give keys with values, as in configs/")
    return values


def describe_yaml_error(error: YAMLError, text: str) -> str:
    """Describe what is wrong with a YAML text, in one line.

    Args:
        error: What PyYAML raised.
        text: The text.

    Returns:
        Line and column, counted from 1, and the problem.
    """
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, MarkedYAMLError) or mark is None:
        return " ".join(str(error).split())

    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    problem = error.problem or "it cannot be read"
    if "\t" in line[: len(line) - len(line.lstrip())]:
        problem = "a tab; YAML is indented by spaces"
    elif error.context and not problem.startswith("found duplicate key"):
        problem = f"{error.context}, {problem}"
    elif error.context_mark is not None and problem.startswith("found duplicate key"):
        problem = f"{problem}; its block begins in line {error.context_mark.line + 1}"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _read_text(path: Path) -> str:
    """Return the text of a file, without a byte order mark."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror or error}") from error

    try:
        return content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path} is not a config: line {line} is not UTF-8 text (byte 0x{content[error.start]:02x}); save the file "
            "as UTF-8"
        ) from error


def _check_indentation(text: str, path: Path) -> None:
    """Raise `ConfigError` for a blank that looks like a space and is none, such as one copied from a web page."""
    for number, line in enumerate(text.splitlines(), 1):
        blanks = line[: len(line) - len(line.lstrip())]
        for column, blank in enumerate(blanks, 1):
            if blank not in (SPACE, "\t"):
                raise ConfigError(
                    f"{path} is not a config: line {number}, column {column}: a blank of the kind U+{ord(blank):04X}; "
                    "YAML is indented by spaces"
                )
