"""Slices along other planes: what is cut is the volume, whichever way, and left and right stay what they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from dsdiff.data import batch_sampling as batches
from dsdiff.data import build_store, dataloader, dataset, store
from dsdiff.data.augment import AugmentConfig
from dsdiff.data.dataloader import Batches
from dsdiff.data.dataset import InMemory, Patient
from dsdiff.data.settings import DataConfig
from dsdiff.data.store import Settings
from dsdiff.errors import ConfigError
from dsdiff.io import cases
from dsdiff.preprocessing import planes
from dsdiff.preprocessing.planes import PLANES
from tests.toy_data import write_case

SOURCES = ("t1", "t2", "flair")
FLIPPED = AugmentConfig.off().model_copy(update={"flip": AugmentConfig().flip.model_copy(update={"probability": 1.0})})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(2):
        write_case(folder, f"P{seed}", seed)
    return folder


@pytest.fixture(scope="module")
def patients(folder):
    return [dataset.load(case, SOURCES, "t1ce") for case in cases.discover(folder)]


@pytest.fixture(scope="module")
def kept(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("store") / "planes"
    build_store.prepare(folder, root, Settings(planes=PLANES), 1, Console(quiet=True))
    return store.open_store(root).patients(SOURCES, "t1ce", "t1", PLANES)


@pytest.mark.parametrize("plane", PLANES)
def test_a_volume_turned_twice_is_as_it_was(plane):
    volume = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(planes.turned(planes.turned(volume, plane), plane), volume)
    cut = planes.sliced(volume.transpose(2, 0, 1), plane)
    assert np.array_equal(cut, planes.turned(volume, plane).transpose(2, 0, 1))


@pytest.mark.parametrize(("plane", "at"), [("axial", 9), ("coronal", 20), ("sagittal", 13), ("coronal", 0)])
def test_a_slab_of_a_plane_is_cut_from_the_volume(patients, kept, plane, at):
    images, region = patients[0].slices.whole()
    volume, regions = images.transpose(0, 2, 3, 1), region.transpose(1, 2, 0)  # c x y z
    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    inside = [n for n in (at - 1, at, at + 1) if 0 <= n < regions.shape[axis]]
    for patient in (patients[0], kept[0]):
        slab = patient.slab(at, 3, plane)
        middle = np.take(volume[3], at, axis), np.take(regions, at, axis)
        expected = np.stack([np.take(volume[:3], n, axis + 1) for n in inside], 1)
        if plane == "sagittal":  # z before y
            middle, expected = tuple(one.T for one in middle), expected.swapaxes(-1, -2)
        assert np.array_equal(slab.sources[:, 3 - len(inside) :], expected)
        assert np.array_equal(slab.target, middle[0])
        assert np.array_equal(slab.region, middle[1])
        assert at in patient.slices_with(1, plane)


def test_a_store_gives_a_training_the_bits_of_its_folder(patients, kept):
    data = DataConfig(planes=PLANES, crop=(32, 32))
    for step in range(6):
        one, other = (Batches(data, 0, 2, cases).at(step) for cases in (patients, kept))
        assert torch.equal(one.sources, other.sources)
        assert torch.equal(one.target, other.target)


def test_a_store_of_axial_slices_refuses_others(folder, tmp_path):
    build_store.prepare(folder, tmp_path / "store", Settings(), 1, Console(quiet=True))
    data = DataConfig(root=tmp_path / "store", planes=("axial", "sagittal"))
    with pytest.raises(ConfigError, match=r"prepared for axial slices.*--planes axial,sagittal"):
        dataloader.gather(data, "none", Console(quiet=True))


def test_a_store_without_axial_slices_is_whole(patients, folder, tmp_path):
    build_store.prepare(folder, tmp_path / "store", Settings(planes=("coronal",)), 1, Console(quiet=True))
    (first, _) = store.open_store(tmp_path / "store").patients(SOURCES, "t1ce", "t1", ("coronal",))
    for one, other in zip(first.slices.whole(), patients[0].slices.whole(), strict=True):
        assert np.array_equal(one, other)


def test_every_plane_is_drawn_and_none_but_those_asked_for(patients, monkeypatch):
    seen = []
    monkeypatch.setattr(batches, "draw", lambda *given, of=batches.draw: (seen.append(given[-1]), of(*given))[1])
    Batches(DataConfig(planes=PLANES, crop=(16, 16)), 0, 30, patients).at(0)
    assert set(seen) == set(PLANES)
    seen.clear()
    Batches(DataConfig(planes=("coronal",), crop=(16, 16)), 0, 30, patients).at(0)
    assert set(seen) == {"coronal"}


@pytest.mark.parametrize(("named", "said"), [((), "names none"), (("axial", "axial"), "names one twice")])
def test_a_config_names_each_plane_once(named, said):
    with pytest.raises(ValueError, match=said):
        DataConfig(planes=named)


def test_prepare_takes_planes_by_name(folder, tmp_path, cli):
    code, printed = cli("prepare", folder, tmp_path / "store", "--planes", "sagittal, coronal")
    assert code == 0
    assert store.open_store(tmp_path / "store").settings.planes == ("coronal", "sagittal")
    assert (tmp_path / "store" / "contact.png").stat().st_size > 0
    slices = sum(
        len(peak) for entry in store.open_store(tmp_path / "store").entries.values() for peak in entry.peaks.values()
    )
    assert f"{slices} slices with brain" in printed
    for wrong in ("axial,oblique", "axial,axial", ""):
        code, printed = cli("prepare", folder, tmp_path / "other", "--planes", wrong)
        assert code == 2
        assert "it takes axial, coronal, sagittal, each once" in printed
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("plane", PLANES)
def test_a_flip_exchanges_left_and_right_in_every_plane(patients, plane):
    images, region = patients[0].slices.whole()
    mirrored = Patient.of("mirrored", InMemory(images[..., ::-1, :], region[..., ::-1, :]))
    at = int(np.median(patients[0].slices_with(3, plane)))
    there = region.shape[1] - 1 - at if plane == "sagittal" else at
    one, other = drawn(patients[0], at, plane), drawn(mirrored, there, plane)
    made = batches.augmented(one, FLIPPED, torch.Generator().manual_seed(0), plane)
    assert not torch.equal(one.sources, other.sources)
    assert torch.allclose(made.sources, other.sources, atol=1e-4)
    assert torch.allclose(made.target, other.target, atol=1e-4)
    assert torch.equal(made.region, other.region)


def drawn(patient, at, plane):
    """A slice of a plane, whole."""
    peak = np.zeros_like(patient.peaks[plane])
    peak[at] = 1
    crop = patient.slab(at, 3, plane).region.shape
    return batches.draw([replace(patient, peaks={plane: peak})], 1, crop, 3, 0.0, np.random.default_rng(0), plane=plane)
