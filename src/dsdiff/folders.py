"""Folders that appear whole or not at all."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsdiff.errors import OutputError


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A new folder beside the target that takes the target's place when all went well, and vanishes otherwise.

    An older target is replaced; a caller that must not lose one checks first. Parents that had to be made vanish with
    it. Raises `OutputError` where the place cannot be written or the disk is full.
    """
    missing = [place for place in target.parents if not place.exists()]
    folder = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        yield folder
        folder.chmod(0o777 & ~_umask())
        _exchange(folder, target)
    except BaseException as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        for place in missing:  # deepest first; kept where others wrote meanwhile
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
        raise


def refuse_foreign(target: Path, facts: str, what: str, ours: re.Pattern[str]) -> None:
    """Raise `OutputError` where the target cannot be looked at, or holds anything that dsdiff did not write.

    Ours is an empty place, or a folder of files by the names of `ours` whose JSON file `facts` says `what`.
    """
    try:
        if not target.exists():
            return
        names = {path.name for path in target.iterdir()}
        made_here = json.loads((target / facts).read_text())["what"] == what
    except FileNotFoundError:
        names, made_here = set(), False
    except (ValueError, KeyError, TypeError):
        made_here = False
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
    foreign = sorted(name for name in names if not ours.fullmatch(name))
    if foreign or not made_here:
        found = f"holds {foreign[0]}" if foreign else "is not an output of dsdiff"
        raise OutputError(f"{target} {found}; it is left alone (choose another -o)")


def _exchange(folder: Path, target: Path) -> None:
    """Put `folder` in the place of `target`."""
    if not target.exists():
        folder.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    target.rename(old / target.name)
    try:
        folder.rename(target)
    except OSError:
        (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
