"""Batches depend only on seed, step and number, not on the worker or process that makes them, nor on its order."""

import pytest
import torch

from dsdiff.data import preparation, target_style
from dsdiff.data.batch_sampling import Batch
from dsdiff.data.dataloader import TrainingBatches, prefetch_batches
from dsdiff.data.settings import DataConfig
from dsdiff.io.cases import discover_cases
from tests.toy_data import write_case

DATA = DataConfig(crop=(32, 48), phantom_fraction=0.5, contrast_dropout=0.3, style_dropout=0.5)


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(3):
        write_case(folder, f"P{seed}", seed)
    patients = [preparation.load_patient(case, ("t1", "t2", "flair"), "t1ce") for case in discover_cases(folder)]
    return target_style.attach_style_codes(patients, "linear")[0]


def make_batches(patients, size=4, seed=7, **ranks):
    return TrainingBatches(DATA, seed, size, patients[:2], patients[2:], **ranks)


def are_equal(a, b):
    fields = ("sources", "target", "region", "present", "style_image")
    return a.case_names == b.case_names and all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields)


def test_a_batch_depends_on_seed_and_step(patients):
    batch = make_batches(patients).load_step(3)
    assert are_equal(batch, make_batches(patients).load_step(3))
    assert not are_equal(batch, make_batches(patients).load_step(4))
    assert not are_equal(batch, make_batches(patients, seed=8).load_step(3))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batch_of_one_process(patients, world_size):
    parts = [
        make_batches(patients, 4 // world_size, rank=rank, world_size=world_size).load_step(5)
        for rank in range(world_size)
    ]
    assert are_equal(Batch.concatenate(parts), make_batches(patients).load_step(5))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_change_neither_batches_nor_the_global_generator(patients, workers):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    batches = list(prefetch_batches(make_batches(patients), 2, 7, workers))
    assert torch.equal(torch.rand(1), expected)
    assert len(batches) == 5
    for step, batch in zip(range(2, 7), batches, strict=True):
        assert are_equal(batch, make_batches(patients).load_step(step))


def test_phantoms_are_mixed_in_at_their_fraction(patients):
    names = make_batches(patients, 400).load_step(0).case_names
    assert names.count("P2") / 400 == pytest.approx(0.5, abs=0.08)
    assert set(names) == {"P0", "P1", "P2"}


def test_selected_slices_keep_their_case_names(patients):
    batch = make_batches(patients).load_step(1)
    assert batch.select(slice(1, 3)).case_names == batch.case_names[1:3]
