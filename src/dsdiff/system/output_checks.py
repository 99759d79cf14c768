"""Checks before long work: can the output be written, and would it destroy what dsdiff did not write?"""

import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dsdiff.errors import OutputError
from dsdiff.system.atomic import wrap_os_error


def check_replaceable(target: Path, metadata_name: str, file_kind: str, output_pattern: re.Pattern[str]) -> None:
    """Check that a folder is absent, empty, or an earlier output of the same kind.

    Args:
        target: The folder.
        metadata_name: Name of the JSON file in such an output that names its kind.
        file_kind: Value of "what" in that file.
        output_pattern: Matches the names of all files of such an output.

    Raises:
        OutputError: The folder holds other files, cannot be replaced, or cannot be written.
    """
    target = Path(os.path.realpath(target))
    with wrap_os_error(target):
        check_writable(target)
        if not target.exists():
            return
        if os.path.ismount(target) or target == Path.cwd():
            kind = "a mount" if os.path.ismount(target) else "the folder that this command runs in"
            raise OutputError(f"{target} is {kind} and cannot be replaced; give a folder below it")
        names = sorted(path.name for path in target.iterdir())
    if not names:
        return

    if not _has_kind(target / metadata_name, file_kind):
        raise OutputError(f"{target} is not an output of dsdiff, so it is not replaced; choose another folder")
    other_names = [name for name in names if not output_pattern.fullmatch(name)]
    if other_names:
        raise OutputError(f"{target} holds {other_names[0]}, so it is not replaced; choose another folder")


def check_writable(target: Path) -> None:
    """Check that a file or folder that may not exist yet can be written.

    Args:
        target: The file or folder.

    Raises:
        OutputError: The first existing folder above it cannot be written.
    """
    parents = target.absolute().parents
    existing = next((parent for parent in parents if parent.exists()), target)  # the root has no parents
    with wrap_os_error(target):
        Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=existing)).rmdir()


def check_png_path(target: Path) -> None:
    """Check that a PNG image can be written.

    Args:
        target: The file.

    Raises:
        OutputError: The name does not end in .png, is that of a folder, or cannot be written.
    """
    if target.suffix.lower() != ".png" or target.is_dir():
        raise OutputError(f"{target} cannot be the figure; give the name of a file that ends in .png")
    check_writable(target)


def check_overwrite(target: Path, file_kind: str, names: Sequence[str]) -> None:
    """Check that files that will be overwritten are an earlier output of the same kind.

    Args:
        target: The folder of the files.
        file_kind: Value of "what" in the first file.
        names: Names of the files. The first one is a JSON file that names its kind.

    Raises:
        OutputError: One of the files exists, but the first one does not name this kind.
    """
    existing = [name for name in names if (target / name).exists()]
    if existing and not _has_kind(target / names[0], file_kind):
        raise OutputError(f"{target} holds {existing[0]}, which this command did not write; choose another folder")


def _has_kind(path: Path, file_kind: str) -> bool:
    """Tell whether a JSON file names this kind. False if it cannot be read."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["what"] == file_kind)
    except (OSError, ValueError, KeyError, TypeError):
        return False
