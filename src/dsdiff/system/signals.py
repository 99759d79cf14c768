"""What Ctrl-C and SIGTERM mean to a command, and to the processes that work for it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Heard:
    """The last signal that ended a command: Ctrl-C, unless SIGTERM was heard."""

    number: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """128 and its number."""
        return 128 + self.number


def heed() -> Heard:
    """Let SIGTERM end this process as Ctrl-C does: what is half written is cleared away."""
    heard = Heard()

    def end(number: int, frame: FrameType | None) -> None:
        heard.number = number
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    return heard


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
