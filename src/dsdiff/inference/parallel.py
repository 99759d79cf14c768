"""Batches of slices computed in parallel: one worker for each thread, each with a batch of its own.

No worker waits for another within a layer, so other programs on the same cores cause no waiting at barriers. The result
is the same, bit for bit, for any number of threads.
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
from dsdiff.system.device import peak_memory

Item = TypeVar("Item")
Output = TypeVar("Output")
thread_state = threading.local()  # of a worker; `cancelled` is the event of its pool
MIN_SPEEDUP = 1.2  # of throughput, that twice the threads must bring
N_ATTEMPTS = 8  # measurements of a number of threads before it counts as too slow
N_CONVOLUTIONS = 4  # by each worker in a trial
N_TRIALS = 4  # in a measurement; the first one starts the workers and does not count


class CancelledError(Exception):
    """The work was cancelled: its pool was closed or the program interrupted."""


def raise_if_cancelled() -> None:
    """Stop a worker whose work was cancelled. Long work calls it at every step.

    Raises:
        CancelledError: In a worker whose pool was closed.
    """
    cancelled = getattr(thread_state, "cancelled", None)
    if cancelled is not None and cancelled.is_set():
        raise CancelledError


@contextmanager
def worker_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Open a pool of workers that compute each layer on one thread. Closing it cancels the work that still runs.

    Args:
        threads: Number of workers.

    Yields:
        The executor.
    """
    cancelled = threading.Event()
    with ThreadPoolExecutor(threads, initializer=_start_worker, initargs=(cancelled,)) as executor:
        try:
            yield executor
        finally:
            cancelled.set()


def _start_worker(cancelled: threading.Event) -> None:
    torch.set_num_threads(1)
    thread_state.cancelled = cancelled


class MemoryBudget:
    """Number of workers that a memory limit allows, measured while one worker computes the first (largest) item.

    Args:
        gigabytes: The limit.
        device: Where the items are computed.

    Raises:
        ConfigError: For a device other than a CPU, where there is only one worker.
    """

    def __init__(self, gigabytes: float, device: torch.device) -> None:
        if device.type != "cpu":
            raise ConfigError(f"--memory is for a CPU; on {device} one batch of slices is computed at a time")
        self.gigabytes = gigabytes
        self.device = device
        self.idle_bytes = 0

    def start(self) -> None:
        """Measure the memory in use before the first item is computed."""
        peak_memory(self.device)  # resets the peak
        self.idle_bytes = peak_memory(self.device)

    def max_workers(self) -> int:
        """Compute the number of workers after the first item was computed.

        Returns:
            1 or more.

        Raises:
            ConfigError: If the limit does not suffice for one worker.
        """
        peak_bytes, limit_bytes = peak_memory(self.device), self.gigabytes * 1e9
        if peak_bytes > limit_bytes:
            raise ConfigError(
                f"--memory {self.gigabytes:g} is too little: one worker needs {peak_bytes / 1e9:.2f} GB; give more"
            )
        return int((limit_bytes - self.idle_bytes) / max(peak_bytes - self.idle_bytes, 1))


def ordered_map(
    function: Callable[[Item], Output], items: Iterable[Item], threads: int, budget: MemoryBudget | None = None
) -> Iterator[Output]:
    """Compute a function of every item in parallel. Few items are in memory, and each only until its function ends.

    Args:
        function: What the workers compute.
        items: Read only as fast as they are computed.
        threads: Number of workers; 0 computes in the caller's thread.
        budget: Reduces the number of workers to a memory limit.

    Yields:
        The outputs in the order of the items.

    Raises:
        ConfigError: If the budget does not suffice for one worker.
    """
    remaining = iter(items)
    if threads == 0:
        yield from map(function, remaining)
        return

    if budget is not None:
        with worker_pool(1) as executor:
            for first in islice(remaining, 1):
                budget.start()
                yield executor.submit(function, first).result()
        threads = min(threads, budget.max_workers())

    pending: deque[Future[Output]] = deque()
    with worker_pool(threads) as executor:
        for future in map(lambda item: executor.submit(function, item), remaining):
            pending.append(future)
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def benchmark_thread_count(max_threads: int) -> int:
    """Measure how many threads are worth using: the number is doubled while throughput grows by 20 % or more.

    It stops growing where cores share arithmetic units (hyper-threads) and where the process has a CPU quota. Load by
    other programs only makes more threads look slower, so a number that seems too slow is measured again.

    Args:
        max_threads: The largest number to try.

    Returns:
        The best number, 1 to `max_threads`.
    """
    threads, throughput = 1, _measure_throughput(1)
    while threads < max_threads:
        candidate = min(2 * threads, max_threads)
        candidate_throughput = _measure_until(candidate, MIN_SPEEDUP * throughput)
        if candidate_throughput is None:
            break
        threads, throughput = candidate, candidate_throughput
    return threads


def _measure_until(threads: int, min_throughput: float) -> float | None:
    """Measure a number of threads until it reaches a throughput; None if it never does."""
    for _ in range(N_ATTEMPTS):
        throughput = _measure_throughput(threads)
        if throughput >= min_throughput:
            return throughput
    return None


@torch.inference_mode()
def _measure_throughput(threads: int) -> float:
    """Small convolutions per second by a number of workers: the best of three trials of a few milliseconds."""
    image, weight = torch.zeros(1, 64, 48, 48), torch.zeros(64, 64, 3, 3)

    def convolve(_: int) -> None:
        for _ in range(N_CONVOLUTIONS):
            F.conv2d(image, weight, padding=1)

    seconds = []
    with worker_pool(threads) as executor:
        for _ in range(N_TRIALS):
            start = time.perf_counter()
            list(executor.map(convolve, range(threads)))
            seconds.append(time.perf_counter() - start)
    return threads * N_CONVOLUTIONS / min(seconds[1:])
