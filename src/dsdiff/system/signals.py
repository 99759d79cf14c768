"""What Ctrl-C and SIGTERM do to a command and to its worker processes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class ShutdownSignal:
    """The signal that ended a command: Ctrl-C (SIGINT), unless SIGTERM arrived.

    Attributes:
        number: Number of the signal.
    """

    number: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """The exit code that shells expect after this signal.

        Returns:
            128 plus the number of the signal.
        """
        return 128 + self.number


def install_sigterm_handler() -> ShutdownSignal:
    """Let SIGTERM end this process as Ctrl-C does, so that partly written files are removed.

    Returns:
        The signal that ended the command, as soon as there is one.
    """
    shutdown = ShutdownSignal()

    def interrupt(number: int, frame: FrameType | None) -> None:
        shutdown.number = number
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    return shutdown


def ignore_signals(*_: object) -> None:
    """Ignore Ctrl-C and SIGTERM in a worker process: its main process saves its state, and then ends its workers.

    Args:
        *_: Ignored, such as the number that a `DataLoader` gives its workers.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def defer_sigint() -> Iterator[None]:
    """Ignore Ctrl-C while worker processes start, until they call `ignore_signals` themselves.

    Yields:
        Nothing. A process that starts meanwhile ignores Ctrl-C for good.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
