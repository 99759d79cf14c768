"""Slices side by side: the same bits whatever the threads and the memory, and never more held than needed."""

import gc
import time
import weakref

import numpy as np
import pytest
import torch

from dsdiff.errors import ConfigError
from dsdiff.inference import engine as engines
from dsdiff.inference import model as models
from dsdiff.inference import parallel
from dsdiff.inference.options import Sampling
from dsdiff.inference.pipeline import run
from dsdiff.volume import Volume
from tests.toy_data import LPS, patient

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(model_folder):
    return models.load(model_folder, CPU)


@pytest.fixture
def threads():
    """Sets torch's threads; they are as before afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def volumes():
    return {name: Volume(array, LPS) for name, array in patient().items() if name in ("t1", "t2", "flair")}


def test_threads_and_memory_change_no_bit(model, threads):
    plain = run(volumes(), model, Sampling(4, 2))
    threads(3)
    for other in (run(volumes(), model, Sampling(4, 2)), run(volumes(), model, Sampling(4, 2), memory=64.0)):
        assert np.array_equal(other.z, plain.z)
        assert np.array_equal(other.z_std, plain.z_std)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("slices", [1, 2, 7])
def test_the_grouping_of_slices_changes_rounding_alone(model, monkeypatch, slices):
    plain = run(volumes(), model).z
    monkeypatch.setitem(engines.SLICES, "cpu", slices)
    error = run(volumes(), model).z - plain
    assert np.square(error).mean() < 10**-4.5 * np.ptp(plain) ** 2


def test_a_ceiling_that_is_too_low_is_refused(model):
    with pytest.raises(ConfigError, match=r"--memory 0.01 is too little: one worker needs \d"):
        run(volumes(), model, memory=0.01)


def test_a_ceiling_is_for_a_cpu():
    with pytest.raises(ConfigError, match="--memory is for a CPU; on cuda"):
        parallel.Ceiling(1.0, torch.device("cuda"))


def test_a_ceiling_affords_as_many_workers_as_fit(monkeypatch):
    told = iter([9e9, 1e9, 1.5e9])  # the peak before, what is in use when it was reset, the peak with one worker
    monkeypatch.setattr("dsdiff.system.device.peak_memory", lambda device: next(told))
    ceiling = parallel.Ceiling(2.2, CPU)
    ceiling.watch()
    assert ceiling.affords() == 2


def test_order_is_kept_and_few_items_are_held():
    taken, seen = [], []

    def items():
        for item in range(20):
            taken.append(item)
            yield item

    for square in parallel.in_order(lambda n: n * n, items(), 3):
        seen.append(square)
        assert len(taken) - len(seen) <= 3
    assert seen == [n * n for n in range(20)]


def test_an_item_is_let_go_when_its_function_has_taken_it():
    class Item:
        pass

    items = [Item() for _ in range(6)]
    alive = [weakref.ref(item) for item in items]
    made = parallel.in_order(lambda item: None, (items.pop(0) for _ in range(6)), 1)
    for count in range(1, 4):
        next(made)
        until = time.monotonic() + 10  # the worker lets go of it a moment after its result is there
        while any(item() is not None for item in alive[:count]) and time.monotonic() < until:
            gc.collect()
        assert all(item() is None for item in alive[:count])


def test_without_threads_the_caller_computes():
    assert list(parallel.in_order(str, iter([1, 2]), 0)) == ["1", "2"]


def test_an_error_in_a_worker_is_raised_where_its_item_is_due():
    made = parallel.in_order(lambda n: 1 // (n - 2), range(5), 2)
    assert [next(made), next(made)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(made)


@pytest.mark.parametrize(
    ("rates", "chosen"), [({1: 1, 2: 2, 4: 4, 6: 5}, 6), ({1: 1, 2: 1.1}, 1), ({1: 1, 2: 2, 4: 2.1}, 2)]
)
def test_threads_are_taken_while_they_pay(monkeypatch, rates, chosen):
    monkeypatch.setattr(parallel, "_rate", rates.__getitem__)
    assert parallel.worthwhile(6) == chosen


def test_a_core_that_was_busy_for_a_moment_is_asked_again(monkeypatch):
    two = iter([1.0, 1.1, 2.0])
    monkeypatch.setattr(parallel, "_rate", lambda threads: 1.0 if threads == 1 else next(two))
    assert parallel.worthwhile(2) == 2


def test_the_measurement_itself_ends_with_a_number_of_threads():
    assert parallel.worthwhile(2) in (1, 2)


def test_work_that_is_not_wanted_any_more_ends_at_its_next_step():
    ended = []

    def long(item):
        try:
            while item:
                parallel.go_on()
        finally:
            ended.append(item)
        return item

    made = parallel.in_order(long, range(3), 2)
    assert next(made) == 0
    made.close()
    assert sorted(ended) == [0, 1, 2]
    parallel.go_on()  # nothing to stop outside
