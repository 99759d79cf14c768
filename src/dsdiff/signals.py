"""What Ctrl-C and SIGTERM mean to a command, and to the processes that work for it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # exit codes


class Terminated(KeyboardInterrupt):
    """SIGTERM: what is half written is cleared away as after Ctrl-C."""


def heed() -> None:
    """Let SIGTERM end this process as Ctrl-C does, from the thread that may say so."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, end)


def deaf(*_: object) -> None:
    """Leave signals to the process that this one works for: it saves its state first, and then ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def unheard() -> Iterator[None]:
    """Ctrl-C goes unheard here, and for good in the processes begun meanwhile, which have yet to become `deaf`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
