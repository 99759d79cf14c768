"""Parallel slices: the same bits for any number of threads and memory limit, and few items in memory."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from dsdiff.errors import ConfigError
from dsdiff.inference import parallel
from dsdiff.inference.engine import BATCH_SIZES
from dsdiff.inference.model import Model, load_model
from dsdiff.inference.options import SynthesisOptions
from dsdiff.inference.pipeline import Pipeline
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, make_patient

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder, CPU)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads and restores their number afterwards."""
    threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(threads)


def make_volumes() -> dict[str, Volume]:
    return {name: Volume(array, LPS_AFFINE) for name, array in make_patient().items() if name in ("t1", "t2", "flair")}


def test_threads_and_memory_limit_change_no_bit(model: Model, set_threads: Callable[[int], None]) -> None:
    reference = Pipeline(model, SynthesisOptions(steps=4, samples=2)).synthesize_volumes(make_volumes())
    set_threads(3)
    for memory_gb in (None, 64.0):
        options = SynthesisOptions(steps=4, samples=2, memory_gb=memory_gb)
        result = Pipeline(model, options).synthesize_volumes(make_volumes())
        assert np.array_equal(result.z, reference.z)
        assert np.array_equal(result.z_std, reference.z_std)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batch_size_changes_only_rounding(model: Model, monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    reference = Pipeline(model).synthesize_volumes(make_volumes()).z
    monkeypatch.setitem(BATCH_SIZES, "cpu", batch_size)
    error = Pipeline(model).synthesize_volumes(make_volumes()).z - reference
    assert np.square(error).mean() < 10**-4.5 * np.ptp(reference) ** 2


def test_memory_limit_below_one_worker_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"--memory 0.01 is too little: one worker needs \d"):
        Pipeline(model, SynthesisOptions(memory_gb=0.01)).synthesize_volumes(make_volumes())


def test_memory_limit_is_refused_on_a_gpu() -> None:
    with pytest.raises(ConfigError, match="--memory is for a CPU; on cuda"):
        parallel.MemoryBudget(1.0, torch.device("cuda"))


def test_memory_budget_allows_as_many_workers_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([9e9, 1e9, 1.5e9])  # the old peak, the memory in use after its reset, the peak with one worker
    monkeypatch.setattr(parallel, "peak_memory", lambda device: next(peaks))
    budget = parallel.MemoryBudget(2.2, CPU)
    budget.start()
    assert budget.max_workers() == 2


def test_ordered_map_keeps_the_order_and_reads_few_items_ahead() -> None:
    read_items, squares = [], []

    def read() -> Iterator[int]:
        for item in range(20):
            read_items.append(item)
            yield item

    for square in parallel.ordered_map(lambda n: n * n, read(), 3):
        squares.append(square)
        assert len(read_items) - len(squares) <= 3
    assert squares == [n * n for n in range(20)]


def test_ordered_map_releases_an_item_after_its_function() -> None:
    class Item:
        pass

    items = [Item() for _ in range(6)]
    references = [weakref.ref(item) for item in items]
    results = parallel.ordered_map(lambda item: None, (items.pop(0) for _ in range(6)), 1)
    for count in range(1, 4):
        next(results)
        deadline = time.monotonic() + 10  # the worker releases it a moment after its result
        while any(reference() is not None for reference in references[:count]) and time.monotonic() < deadline:
            gc.collect()
        assert all(reference() is None for reference in references[:count])


def test_ordered_map_without_threads_computes_in_the_caller() -> None:
    assert list(parallel.ordered_map(str, iter([1, 2]), 0)) == ["1", "2"]


def test_ordered_map_raises_an_error_in_the_order_of_the_items() -> None:
    results = parallel.ordered_map(lambda n: 1 // (n - 2), range(5), 2)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize(
    ("throughputs", "threads"),
    [({1: 1.0, 2: 2.0, 4: 4.0, 6: 5.0}, 6), ({1: 1.0, 2: 1.1}, 1), ({1: 1.0, 2: 2.0, 4: 2.1}, 2)],
)
def test_threads_are_doubled_while_throughput_grows(
    monkeypatch: pytest.MonkeyPatch, throughputs: dict[int, float], threads: int
) -> None:
    monkeypatch.setattr(parallel, "_measure_throughput", throughputs.__getitem__)
    assert parallel.benchmark_thread_count(6) == threads


def test_slow_measurement_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    throughputs = iter([1.0, 1.1, 2.0])
    monkeypatch.setattr(parallel, "_measure_throughput", lambda threads: 1.0 if threads == 1 else next(throughputs))
    assert parallel.benchmark_thread_count(2) == 2


def test_benchmark_returns_a_number_of_threads() -> None:
    assert parallel.benchmark_thread_count(2) in (1, 2)


def test_cancelled_work_stops_at_its_next_step() -> None:
    stopped = []

    def work(item: int) -> int:
        try:
            while item:
                parallel.raise_if_cancelled()
        finally:
            stopped.append(item)
        return item

    results = parallel.ordered_map(work, range(3), 2)
    assert next(results) == 0
    results.close()
    assert sorted(stopped) == [0, 1, 2]
    parallel.raise_if_cancelled()  # does nothing outside a worker
