"""A run asked to stop: the step under way ends and its state is saved before anything else happens."""

import signal
import threading
from types import FrameType


class Stop:
    """While entered, SIGTERM (a scheduler's preemption) and SIGINT (Ctrl-C) are noted; a second Ctrl-C stops at once.

    asked: the number of the signal, 0 for none.
    """

    def __init__(self) -> None:
        self.asked = 0

    def __enter__(self) -> "Stop":
        there = threading.current_thread() is threading.main_thread()  # no other may handle signals
        self._before = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT) if there}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.asked:
            raise KeyboardInterrupt
        self.asked = max(self.asked, number)

    def obey(self, agreed: int) -> None:
        """End this process as the signal that all agreed on asks: exit code 0 after SIGTERM, 130 after Ctrl-C."""
        if agreed == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(0)
