"""Graceful shutdown of a run: the current step ends and its state is saved before the process exits."""

import signal
import threading
from types import FrameType


class GracefulStop:
    """Record SIGTERM (preemption by a scheduler) and SIGINT (Ctrl-C) inside a `with` block.

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread no signal is recorded.

    Attributes:
        signal_number: Number of the signal, SIGTERM if both arrived; 0 for none.
    """

    def __init__(self) -> None:
        self.signal_number = 0

    def __enter__(self) -> "GracefulStop":
        is_main_thread = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
        signals = (signal.SIGTERM, signal.SIGINT) if is_main_thread else ()
        self._previous_handlers = {number: signal.signal(number, self._record) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT == self.signal_number:
            raise KeyboardInterrupt
        self.signal_number = max(self.signal_number, number)

    def exit(self, signal_number: int) -> None:
        """End this process; exit code 0 after SIGTERM, 130 after Ctrl-C.

        Args:
            signal_number: Signal that all processes agreed on.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SystemExit: After SIGTERM.
        """
        if signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(0)
