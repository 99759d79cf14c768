"""Training patients: region maps, context slices, random crops and target styles."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from dsdiff.data import preparation, target_style
from dsdiff.data.batch_sampling import sample_batch
from dsdiff.data.dataset import BRAIN, ENHANCING, LESION
from dsdiff.data.settings import DataConfig
from dsdiff.errors import CaseError, InputError
from dsdiff.io.cases import discover_cases
from tests.toy_data import write_case

SOURCES = ("t1", "t2", "flair")


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(2):
        write_case(folder, f"P{seed}", seed)
    return [preparation.load_patient(case, SOURCES, "t1ce") for case in discover_cases(folder)]


def test_a_region_map_marks_brain_and_enhancing_tumour(patients):
    for patient in patients:
        images, region = patient.slices.load_all()
        assert images.shape[0] == 4
        assert set(np.unique(region)) == {0, BRAIN, ENHANCING}
        assert not images[:, region == 0].any()
        assert (images[3] - images[0])[region == ENHANCING].mean() > 2
        has_tumour = (region == ENHANCING).any((1, 2))
        assert patient.find_slices(LESION).tolist() == np.flatnonzero(has_tumour).tolist()


def test_two_segmentations_of_one_case_are_refused(tmp_path):
    folder = write_case(tmp_path, "P0")
    shutil.copy(folder / "P0_seg.nii.gz", folder / "P0_dseg.nii.gz")
    (case,) = discover_cases(folder)
    with pytest.raises(CaseError, match="has more than one seg"):
        preparation.load_patient(case, SOURCES, "t1ce")


@pytest.mark.parametrize("z", [0, 7, -1])
def test_a_stack_is_a_slice_between_its_neighbors(patients, z):
    images, region = patients[0].slices.load_all()
    z %= len(region)
    stack = patients[0].read_stack(z, 3)
    padded = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (0, 0), (0, 0)))
    assert np.array_equal(stack.sources, padded[:3, z : z + 3])
    assert np.array_equal(stack.target, images[3, z])
    assert np.array_equal(stack.region, region[z])


@pytest.mark.parametrize("crop", [(16, 16), (32, 48), (64, 64)])
def test_sampled_slices_have_the_crop_size_and_depend_on_the_seed(patients, crop):
    data = DataConfig(crop=crop)
    first, second, other_seed = (sample_batch(patients, 6, data, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert first.sources.shape == (6, 3, 3, *crop)
    assert first.target.shape == first.region.shape == (6, 1, *crop)
    assert torch.equal(first.sources, second.sources)
    assert not torch.equal(first.sources, other_seed.sources)
    assert (first.region > 0).flatten(1).any(1).all()
    assert not first.target[first.region == 0].any()


def test_a_lesion_fraction_of_one_samples_only_lesions(patients):
    data = DataConfig(crop=(48, 48), context_slices=1, lesion_fraction=1.0)
    batch = sample_batch(patients, 20, data, np.random.default_rng(0))
    assert (batch.region == ENHANCING).flatten(1).any(1).all()
    with pytest.raises(InputError, match="no patient"):
        sample_batch([], 1, data, np.random.default_rng(0))


def mean_enhancement(stack):
    return (stack.target - stack.sources[0, 0])[stack.region == ENHANCING].mean()


def test_a_change_of_style_keeps_enhancement(patients):
    matched_patients = target_style.match_style(patients, target_style.average_style(patients))
    for patient, matched in zip(patients, matched_patients, strict=True):
        center = int(np.median(patient.find_slices(ENHANCING)))
        original_stack, matched_stack = patient.read_stack(center, 1), matched.read_stack(center, 1)
        assert mean_enhancement(matched_stack) == pytest.approx(mean_enhancement(original_stack), rel=0.4)
        assert mean_enhancement(matched_stack) != mean_enhancement(original_stack)
        assert np.array_equal(matched_stack.sources, original_stack.sources)
        assert not matched_stack.target[matched_stack.region == 0].any()


def test_slices_without_target_count_as_outside_the_brain(tmp_path, patients):
    folder = write_case(tmp_path, "P0")
    path = folder / "P0_t1ce.nii.gz"
    image = nib.load(path)
    array = np.asarray(image.dataobj).copy()
    array[:, :, 18:] = 0
    nib.save(nib.Nifti1Image(array, image.affine), path)
    (case,) = discover_cases(folder)
    _, region = preparation.load_patient(case, SOURCES, "t1ce").slices.load_all()
    _, full_region = patients[0].slices.load_all()
    n_slices = (region > 0).any((1, 2)).sum()
    assert 0 < n_slices < len(full_region)
    assert np.array_equal(region[:n_slices], full_region[:n_slices])
