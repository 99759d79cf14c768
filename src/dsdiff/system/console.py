"""The terminal of a command: its messages, the lines of its result, and its progress bars, all on stderr.

Code below the command line never prints. It logs by `logging.getLogger(__name__)`, and it reports how far it is
through a `ProgressCallback`. The command line shows both: see `log_to_terminal` and `progress_bars`.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dsdiff.system.unicode_names import to_unicode

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


@runtime_checkable
class ProgressCallback(Protocol):
    """What long work calls to report its progress."""

    def __call__(self, task: str, completed: float, total: float, detail: str = "") -> None:
        """Report the progress of one task.

        Args:
            task: What is being done, such as "reading patients". Another task has another bar.
            completed: Amount of finished work, between 0 and `total`.
            total: Amount of all work of this task.
            detail: A word on the current state, shown after the task, such as a loss.
        """


def ignore_progress(task: str, completed: float, total: float, detail: str = "") -> None:
    """Report progress to nobody. The default of functions that take a `ProgressCallback`.

    Args:
        task: See `ProgressCallback`.
        completed: See `ProgressCallback`.
        total: See `ProgressCallback`.
        detail: See `ProgressCallback`.
    """


@cache
def terminal() -> "Console":
    """Return the console on stderr that messages and bars share, so that a message does not tear a bar.

    Returns:
        One console for the whole command. It writes to the `sys.stderr` of the moment.
    """
    from rich.console import Console  # here, so that --help stays quick

    return Console(stderr=True)


class TerminalHandler(logging.Handler):
    """Print each log message on the terminal as a plain line. Warnings are yellow, errors are red."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message.

        Args:
            record: The message with its level.
        """
        try:
            print_line(self.format(record), STYLES.get(record.levelno))
        except Exception:
            self.handleError(record)


@contextmanager
def log_to_terminal() -> Iterator[None]:
    """Print all messages of dsdiff from level INFO on, for the time of one command.

    Yields:
        Nothing. The logger is afterwards as it was before.
    """
    logger = logging.getLogger("dsdiff")
    handler, level, propagate = TerminalHandler(), logger.level, logger.propagate
    terminal.cache_clear()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a library that sets up the root logger must not print our messages again
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def silence(enabled: bool = True) -> Iterator[None]:
    """Hide messages and progress bars for a while: of several processes only the first one shows them.

    Args:
        enabled: False changes nothing.

    Yields:
        Nothing. Messages and bars are afterwards shown as before.
    """
    console = terminal()
    quiet = console.quiet
    console.quiet = quiet or enabled
    try:
        yield
    finally:
        console.quiet = quiet


def print_line(text: str, style: str | None = None) -> None:
    """Print a line of a command's result on stderr, above any progress bar.

    Args:
        text: Printed without markup or line breaks: names may hold brackets, and a path should be easy to copy.
        style: A style of rich, such as "yellow".
    """
    terminal().print(to_unicode(text), style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bars(*, count: bool = False) -> Iterator[ProgressCallback]:
    """Draw progress bars with elapsed time and ETA; nothing if stderr is not a terminal.

    Args:
        count: Show finished and total items, as in 3/10, instead of percent.

    Yields:
        The callback that draws. Each task has a bar, which vanishes when the task is complete.
    """
    with _make_progress(count) as progress:
        tasks = {}
        lock = Lock()

        def report(task: str, completed: float, total: float, detail: str = "") -> None:
            with lock:
                if task not in tasks:
                    tasks[task] = progress.add_task(task, total=total)
            description = f"{task} {detail}".rstrip()
            progress.update(
                tasks[task], completed=completed, total=total, description=description, visible=completed < total
            )

        yield report


def _make_progress(count: bool) -> "Progress":
    """Make the display of rich. It draws nothing if stderr is not a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    amount: ProgressColumn = MofNCompleteColumn() if count else TaskProgressColumn()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        amount,
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    console = terminal()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal or console.quiet)
