"""Batches follow from seed, step and number alone: whoever makes them, in whatever order."""

import pytest
import torch

from dsdiff.data import dataset
from dsdiff.data.batch_sampling import Batch
from dsdiff.data.dataloader import Batches, prefetched
from dsdiff.data.settings import DataConfig
from dsdiff.io import cases
from tests.toy_data import write_case

DATA = DataConfig(crop=(32, 48), phantom_fraction=0.5, contrast_dropout=0.3, style_dropout=0.5)


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(3):
        write_case(folder, f"P{seed}", seed)
    loaded = [dataset.load(case, ("t1", "t2", "flair"), "t1ce") for case in cases.discover(folder)]
    return dataset.with_styles(loaded, "linear")[0]


def drawn(patients, size=4, **more):
    return Batches(DATA, 7, size, patients[:2], patients[2:], **more)


def same(a, b):
    fields = ("sources", "target", "region", "present", "styled")
    return a.cases == b.cases and all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields)


def test_a_batch_follows_from_seed_and_step(patients):
    assert same(drawn(patients).at(3), drawn(patients).at(3))
    assert not same(drawn(patients).at(3), drawn(patients).at(4))
    other = Batches(DATA, 8, 4, patients[:2], patients[2:])
    assert not same(drawn(patients).at(3), other.at(3))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batch_of_one(patients, world):
    shares = [drawn(patients, 4 // world, rank=rank, world=world).at(5) for rank in range(world)]
    assert same(Batch.joined(shares), drawn(patients).at(5))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_do_not_change_batches_nor_the_dice_of_others(patients, workers):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    made = list(prefetched(drawn(patients), 2, 7, workers))
    assert torch.equal(torch.rand(1), expected)
    assert len(made) == 5
    assert all(same(one, drawn(patients).at(step)) for step, one in zip(range(2, 7), made, strict=True))


def test_phantoms_and_patients_are_mixed_at_their_share(patients):
    named = drawn(patients, 400).at(0).cases
    assert named.count("P2") / 400 == pytest.approx(0.5, abs=0.08)
    assert set(named) == {"P0", "P1", "P2"}


def test_a_part_keeps_its_names(patients):
    batch = drawn(patients).at(1)
    assert batch.part(slice(1, 3)).cases == batch.cases[1:3]
