"""Coronal and sagittal slices: they equal the volume, and left and right are kept apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsdiff.data import assemble_cohort, batch_sampling, build_store, preparation, store
from dsdiff.data.dataloader import TrainingBatches
from dsdiff.data.dataset import InMemorySlices, TrainingPatient
from dsdiff.data.settings import AugmentConfig, DataConfig
from dsdiff.data.store import StoreSettings
from dsdiff.errors import ConfigError
from dsdiff.io.cases import discover_cases
from dsdiff.preprocessing.planes import PLANES, slices_to_plane, volume_to_plane
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
    return [preparation.load_patient(case, SOURCES, "t1ce") for case in discover_cases(folder)]


@pytest.fixture(scope="module")
def stored_patients(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("store") / "planes"
    build_store.prepare_cases(folder, root, StoreSettings(planes=PLANES), 1)
    return store.open_store(root).load_patients(SOURCES, "t1ce", "t1", PLANES)


@pytest.mark.parametrize("plane", PLANES)
def test_volume_to_plane_is_its_own_inverse(plane):
    volume = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(volume_to_plane(volume_to_plane(volume, plane), plane), volume)
    slices = slices_to_plane(volume.transpose(2, 0, 1), plane)
    assert np.array_equal(slices, volume_to_plane(volume, plane).transpose(2, 0, 1))


@pytest.mark.parametrize(("plane", "index"), [("axial", 9), ("coronal", 20), ("sagittal", 13), ("coronal", 0)])
def test_stack_of_a_plane_equals_the_volume(patients, stored_patients, plane, index):
    images, region = patients[0].slices.load_all()
    volume, regions = images.transpose(0, 2, 3, 1), region.transpose(1, 2, 0)  # c x y z
    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    context = [n for n in (index - 1, index, index + 1) if 0 <= n < regions.shape[axis]]
    for patient in (patients[0], stored_patients[0]):
        stack = patient.read_stack(index, 3, plane)
        target, region_slice = np.take(volume[3], index, axis), np.take(regions, index, axis)
        sources = np.stack([np.take(volume[:3], n, axis + 1) for n in context], 1)
        if plane == "sagittal":  # z before y
            target, region_slice, sources = target.T, region_slice.T, sources.swapaxes(-1, -2)
        assert np.array_equal(stack.sources[:, 3 - len(context) :], sources)
        assert np.array_equal(stack.target, target)
        assert np.array_equal(stack.region, region_slice)
        assert index in patient.find_slices(1, plane)


def test_batches_of_a_store_equal_those_of_its_folder(patients, stored_patients):
    data = DataConfig(planes=PLANES, crop=(32, 32))
    for step in range(6):
        batch = TrainingBatches(data, 0, 2, patients).load_step(step)
        stored_batch = TrainingBatches(data, 0, 2, stored_patients).load_step(step)
        assert torch.equal(batch.sources, stored_batch.sources)
        assert torch.equal(batch.target, stored_batch.target)


def test_store_of_axial_slices_raises_for_sagittal_ones(folder, tmp_path):
    build_store.prepare_cases(folder, tmp_path / "store", StoreSettings(), 1)
    data = DataConfig(root=tmp_path / "store", planes=("axial", "sagittal"))
    with pytest.raises(ConfigError, match=r"prepared for axial slices.*--planes axial,sagittal"):
        assemble_cohort.assemble_cohort(data, "none")


def test_store_of_coronal_slices_holds_full_volumes(patients, folder, tmp_path):
    build_store.prepare_cases(folder, tmp_path / "store", StoreSettings(planes=("coronal",)), 1)
    (first, _) = store.open_store(tmp_path / "store").load_patients(SOURCES, "t1ce", "t1", ("coronal",))
    for stored, original in zip(first.slices.load_all(), patients[0].slices.load_all(), strict=True):
        assert np.array_equal(stored, original)


def test_batches_use_exactly_the_planes_of_the_config(patients, monkeypatch):
    sampled_planes = []
    sample_batch = batch_sampling.sample_batch

    def record_plane(*args):
        sampled_planes.append(args[-1])
        return sample_batch(*args)

    monkeypatch.setattr(batch_sampling, "sample_batch", record_plane)
    TrainingBatches(DataConfig(planes=PLANES, crop=(16, 16)), 0, 30, patients).load_step(0)
    assert set(sampled_planes) == set(PLANES)
    sampled_planes.clear()
    TrainingBatches(DataConfig(planes=("coronal",), crop=(16, 16)), 0, 30, patients).load_step(0)
    assert set(sampled_planes) == {"coronal"}


@pytest.mark.parametrize(("planes", "message"), [((), "planes is empty"), (("axial", "axial"), "names one twice")])
def test_config_with_missing_or_repeated_planes_raises(planes, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(planes=planes)


def test_prepare_command_takes_plane_names(folder, tmp_path, cli):
    code, output = cli("prepare", folder, tmp_path / "store", "--planes", "sagittal, coronal")
    assert code == 0
    assert store.open_store(tmp_path / "store").settings.planes == ("coronal", "sagittal")
    assert (tmp_path / "store" / "contact.png").stat().st_size > 0
    records = store.open_store(tmp_path / "store").records.values()
    n_slices = sum(len(indices) for record in records for indices in record.max_region_digits.values())
    assert f"{n_slices} slices with brain" in output
    for planes in ("axial,oblique", "axial,axial", ""):
        code, output = cli("prepare", folder, tmp_path / "invalid", "--planes", planes)
        assert code == 2
        assert "it takes axial, coronal, sagittal, each once" in output
    assert not (tmp_path / "invalid").exists()


@pytest.mark.parametrize("plane", PLANES)
def test_flip_mirrors_left_and_right_in_every_plane(patients, plane):
    images, region = patients[0].slices.load_all()
    mirrored = TrainingPatient.from_slices("mirrored", InMemorySlices(images[..., ::-1, :], region[..., ::-1, :]))
    index = int(np.median(patients[0].find_slices(3, plane)))
    mirrored_index = region.shape[1] - 1 - index if plane == "sagittal" else index
    original_batch = sample_slice(patients[0], index, plane)
    mirrored_batch = sample_slice(mirrored, mirrored_index, plane)
    flipped_batch = batch_sampling.augment_batch(original_batch, FLIPPED, torch.Generator().manual_seed(0), plane)
    assert not torch.equal(original_batch.sources, mirrored_batch.sources)
    assert torch.allclose(flipped_batch.sources, mirrored_batch.sources, atol=1e-4)
    assert torch.allclose(flipped_batch.target, mirrored_batch.target, atol=1e-4)
    assert torch.equal(flipped_batch.region, mirrored_batch.region)


def sample_slice(patient, index, plane):
    """One full slice of a plane."""
    max_region = np.zeros_like(patient.max_regions[plane])
    max_region[index] = 1
    crop = patient.read_stack(index, 3, plane).region.shape
    data = DataConfig(crop=crop, context_slices=3, lesion_fraction=0.0)
    one_slice = replace(patient, max_regions={plane: max_region})
    return batch_sampling.sample_batch([one_slice], 1, data, np.random.default_rng(0), plane)
