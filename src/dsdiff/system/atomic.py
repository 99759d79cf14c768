"""Files and folders that appear complete or not at all, and locks between processes."""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dsdiff.errors import OutputError

LOCK_NAME = ".lock"


@contextmanager
def wrap_os_error(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into errors of the user.

    Args:
        path: What is written meanwhile, for the message.

    Yields:
        Nothing.

    Raises:
        OutputError: The system refused to write.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a folder, so that no other process writes into it. The lock ends with the process, however it ends.

    Args:
        folder: The folder; made if it does not exist.

    Yields:
        Nothing.

    Raises:
        OutputError: Another process holds the lock, or the folder cannot be written.
    """
    lock = FileLock(folder / LOCK_NAME)
    with wrap_os_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(
                f"{folder} is being written by another process; wait, or choose another folder"
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def blocking_lock(path: Path) -> Iterator[None]:
    """Lock a path, and wait while another process holds its lock.

    Args:
        path: The path. The lock is a file next to it.

    Yields:
        Nothing.

    Raises:
        OutputError: The lock file cannot be written.
    """
    with wrap_os_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(path.name + LOCK_NAME))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Write a file completely or not at all.

    Args:
        path: The file; its folder is made if it does not exist.

    Yields:
        A temporary path next to it, to be written. It replaces the file if the block ends without an error.

    Raises:
        OutputError: The file cannot be written, or the disk is full.
    """
    with wrap_os_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        owner = f"{os.getpid()}-{threading.get_ident()}"  # two threads may write one file
        tmp_path = path.with_name(f"{path.name}.{owner}.partial")
        try:
            yield tmp_path
            tmp_path.replace(path)
        finally:
            tmp_path.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all.

    Args:
        path: The file; its folder is made if it does not exist.
        text: The content.

    Raises:
        OutputError: The file cannot be written, or the disk is full.
    """
    with atomic_file(path) as tmp_path:
        tmp_path.write_text(text, encoding="utf-8")


@contextmanager
def atomic_dir(target: Path) -> Iterator[Path]:
    """Write a folder completely or not at all. An older folder is replaced.

    Args:
        target: The folder. A link is followed. Missing parents are made, and removed again after an error.

    Yields:
        A temporary folder next to it, to be filled. It replaces the target if the block ends without an error.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(target))
    missing_parents = [parent for parent in target.parents if not parent.exists()]
    tmp_folder = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tmp_folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        yield tmp_folder
        tmp_folder.chmod(0o777 & ~_read_umask())
        _replace_dir(tmp_folder, target)
    except BaseException as error:
        if tmp_folder is not None:
            shutil.rmtree(tmp_folder, ignore_errors=True)
        for parent in missing_parents:  # deepest first; a parent that another process uses stays
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
        raise


@contextmanager
def atomic_update(target: Path, names: Sequence[str]) -> Iterator[Path]:
    """Replace some files of a folder together.

    Args:
        target: The folder; made if it does not exist.
        names: Names of the files, in the order in which they are replaced.

    Yields:
        A temporary folder, to be filled. Its files replace those of the target if the block ends without an error.

    Raises:
        OutputError: The files cannot be written.
    """
    with wrap_os_error(target):
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=target) as tmp_folder:
            yield Path(tmp_folder)
            for name in names:
                Path(tmp_folder, name).replace(target / name)


def recover_interrupted(folder: Path) -> None:
    """Clean up after a killed process: restore folders that `atomic_dir` was about to replace, and remove the rest.

    Args:
        folder: The folder that holds the targets of `atomic_dir`. The caller holds its lock.

    Raises:
        OutputError: The folder cannot be written.
    """
    with wrap_os_error(folder):
        for backup in folder.glob(".*.old"):
            for old_target in backup.iterdir():
                if not (folder / old_target.name).exists():
                    old_target.rename(folder / old_target.name)
            shutil.rmtree(backup)
        for unfinished in folder.glob(".*.partial"):
            if unfinished.is_dir():
                shutil.rmtree(unfinished)


def _replace_dir(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`. An older target is moved aside first, and restored if the renaming fails."""
    if not target.exists():
        folder.rename(target)
        return
    backup = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    try:
        target.rename(backup / target.name)
        folder.rename(target)
    except OSError:
        if (backup / target.name).exists():
            (backup / target.name).rename(target)
        backup.rmdir()
        raise
    shutil.rmtree(backup, ignore_errors=True)


def _read_umask() -> int:
    umask = os.umask(0o022)
    os.umask(umask)
    return umask
