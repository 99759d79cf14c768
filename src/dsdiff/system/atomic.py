"""Folders and files that appear whole or not at all."""

import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dsdiff.errors import OutputError

LOCK = ".lock"


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """What the system refuses while something is written there, as an `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror or error}") from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process writes into a folder meanwhile that asks for the same; one that ends, however, lets go.

    The folder is made. Raises `OutputError` where another process holds it.
    """
    lock = FileLock(folder / LOCK)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(f"{folder} is being written by another process; wait, or choose another") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def waiting(place: Path) -> Iterator[None]:
    """No other process is at a place meanwhile that asks for the same: the next waits for this one.

    Raises `OutputError` where no lock can be written beside the place.
    """
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.with_name(place.name + LOCK))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A file to be written beside the target, whose place it takes when all went well, and which vanishes otherwise.

    The target's folder is made. Raises `OutputError` where the place cannot be written or the disk is full.
    """
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.partial")  # two may write one file
        try:
            yield beside
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)


def write_whole(file: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises what `whole_file` raises."""
    with whole_file(file) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A new folder beside the target that takes the target's place when all went well, and vanishes otherwise.

    An older target is replaced; a caller that must not lose one checks first. Parents that had to be made vanish with
    it. A link is followed. Raises `OutputError` where the place cannot be written or the disk is full.
    """
    target = Path(os.path.realpath(target))
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


def sweep(place: Path) -> None:
    """Clear away what `whole` left in a folder when its process was killed: an older target whose place stands empty
    takes it again, the rest goes. For whoever holds the folder (see `alone`).
    """
    with writing(place):
        for old in place.glob(".*.old"):
            for kept in old.iterdir():
                if not (place / kept.name).exists():
                    kept.rename(place / kept.name)
            shutil.rmtree(old)
        for unfinished in place.glob(".*.partial"):
            if unfinished.is_dir():
                shutil.rmtree(unfinished)


def refuse_foreign(target: Path, facts: str, what: str, ours: re.Pattern[str]) -> None:
    """Raise `OutputError` where the target cannot be looked at, or holds anything that dsdiff did not write.

    Ours is an empty place, or a folder of files by the names of `ours` whose JSON file `facts` says `what`.
    """
    target = Path(os.path.realpath(target))
    with writing(target):
        refuse_unwritable(target)
        if not target.exists():
            return
        if os.path.ismount(target) or target == Path.cwd():
            what_it_is = "a mount" if os.path.ismount(target) else "the folder that this command runs in"
            raise OutputError(f"{target} is {what_it_is}, which nothing can take the place of; give a folder below it")
        names = {path.name for path in target.iterdir()}
        if not names:
            return
    foreign, made_here = sorted(name for name in names if not ours.fullmatch(name)), _says(target / facts, what)
    if foreign or not made_here:
        found = f"holds {foreign[0]}" if foreign and made_here else "is not an output of dsdiff"
        raise OutputError(f"{target} {found}; it is left alone (choose another place)")


def refuse_unwritable(target: Path) -> None:
    """Raise `OutputError` where nothing can be written at a place that does not exist yet, before long work is done."""
    above = next((place for place in target.absolute().parents if place.exists()), target)  # of / there is none
    with writing(target):
        Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=above)).rmdir()


def refuse_picture(target: Path) -> None:
    """Raise `OutputError` where a picture cannot be written, before long work is done. Pictures are PNG."""
    if target.suffix.lower() != ".png" or target.is_dir():
        raise OutputError(f"{target} is no place for a picture; give a file that ends in .png")
    refuse_unwritable(target)


def refuse_replacing(target: Path, what: str, names: Sequence[str]) -> None:
    """Raise `OutputError` where files by these names would be replaced that dsdiff did not write, as the first, a JSON
    file, says by `what`."""
    there = [name for name in names if (target / name).exists()]
    if there and not _says(target / names[0], what):
        raise OutputError(f"{target} holds {there[0]}, not by this command; it is left alone (choose another place)")


def _says(facts: Path, what: str) -> bool:
    try:
        return bool(json.loads(facts.read_text(encoding="utf-8"))["what"] == what)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def filled(target: Path, names: Sequence[str]) -> Iterator[Path]:
    """A new folder whose files by these names take their places in the target, in this order, when all went well.

    Raises `OutputError` where they cannot be written.
    """
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=target) as place:
            yield Path(place)
            for name in names:
                (Path(place) / name).replace(target / name)


def _exchange(folder: Path, target: Path) -> None:
    """Put `folder` in the place of `target`."""
    if not target.exists():
        folder.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    try:
        target.rename(old / target.name)
        folder.rename(target)
    except OSError:
        if (old / target.name).exists():
            (old / target.name).rename(target)
        old.rmdir()
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
