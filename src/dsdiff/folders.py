"""Folders that appear whole or not at all."""

import os
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
