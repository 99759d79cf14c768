"""Slices computed side by side: one worker per thread, each with a slice of its own.

No worker waits for another inside a layer, so nothing is lost at barriers when other programs want the cores too, and
a slice's answer is the same bits whatever the number of threads.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch
import torch.nn.functional as F

from dsdiff.errors import ConfigError
from dsdiff.system import device as devices

A = TypeVar("A")
B = TypeVar("B")
here = threading.local()
WORTH = 1.2  # gain in throughput that another doubling of the threads must bring
TRIALS = 8


class StoppedError(Exception):
    """The work is not wanted any more: its pool was left, or the program interrupted."""


def go_on() -> None:
    """Called at every step of a long work: raises `StoppedError` in a worker whose work is not wanted any more."""
    if (stop := getattr(here, "stop", None)) is not None and stop.is_set():
        raise StoppedError


@contextmanager
def pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Workers that compute each layer on one thread; what they still do when they are left is stopped (see `go_on`)."""
    stop = threading.Event()
    with ThreadPoolExecutor(threads, initializer=_start, initargs=(stop,)) as several:
        try:
            yield several
        finally:
            stop.set()


def _start(stop: threading.Event) -> None:
    torch.set_num_threads(1)
    here.stop = stop


class Ceiling:
    """How many workers a ceiling of memory affords, in GB, judged by the one that computes the first (largest) item.

    Raises `ConfigError` for a device without workers, and where the ceiling does not afford one.
    """

    def __init__(self, gigabytes: float, device: torch.device) -> None:
        if device.type != "cpu":
            raise ConfigError(f"--memory is for a CPU; on {device} one batch of slices is computed at a time")
        self.gigabytes, self.device, self.idle = gigabytes, device, 0

    def watch(self) -> None:
        """To be called before the first item is computed."""
        devices.peak_memory(self.device)  # and from here on the peak counts anew
        self.idle = devices.peak_memory(self.device)

    def affords(self) -> int:
        """To be called after it."""
        peak, most = devices.peak_memory(self.device), self.gigabytes * 1e9
        if peak > most:
            raise ConfigError(f"--memory {self.gigabytes:g} is too little: one worker needs {peak / 1e9:.2f} GB")
        return int((most - self.idle) / max(peak - self.idle, 1))


def in_order(
    function: Callable[[A], B], items: Iterable[A], threads: int, ceiling: Ceiling | None = None
) -> Iterator[B]:
    """`function(item)` of every item, in their order; few are held at one time, however many there are, and no item
    longer than its function takes.

    Without threads the caller's own computes them.
    """
    todo = iter(items)
    if threads == 0:
        yield from map(function, todo)
        return
    if ceiling is not None:
        with pool(1) as lone:
            for first in islice(todo, 1):
                ceiling.watch()
                yield lone.submit(function, first).result()
        threads = min(threads, ceiling.affords())
    held: deque[Future[B]] = deque()
    with pool(threads) as several:
        for future in map(lambda item: several.submit(function, item), todo):
            held.append(future)
            if len(held) > threads:
                yield held.popleft().result()
        while held:
            yield held.popleft().result()


def worthwhile(most: int) -> int:
    """How many workers pay, up to `most`, by measurement: twice as many while they do 1.2 times as much in a time.

    They do not where cores share their arithmetic units (hyper-threads), or where the process may use fewer (quotas).
    Other programs only ever make more workers look worse, so what does not seem to pay is tried again.
    """
    chosen, rate = 1, _rate(1)
    while chosen < most:
        more = min(2 * chosen, most)
        faster = next((found for _ in range(TRIALS) if (found := _rate(more)) >= WORTH * rate), None)
        if faster is None:
            break
        chosen, rate = more, faster
    return chosen


@torch.inference_mode()
def _rate(threads: int, calls: int = 4) -> float:
    """Small convolutions a second by so many workers: the best of three trials of a few milliseconds."""
    image, weight = torch.zeros(1, 64, 48, 48), torch.zeros(64, 64, 3, 3)

    def convolve(_: int) -> None:
        for _ in range(calls):
            F.conv2d(image, weight, padding=1)

    taken = []
    with pool(threads) as workers:
        for _ in range(4):  # the first wakes the workers
            since = time.perf_counter()
            list(workers.map(convolve, range(threads)))
            taken.append(time.perf_counter() - since)
    return threads * calls / min(taken[1:])
