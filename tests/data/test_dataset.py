import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from dsdiff.data import batch_sampling as batches
from dsdiff.data import dataset
from dsdiff.errors import CaseError, InputError
from dsdiff.io import cases
from tests.toy_data import write_case


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(2):
        write_case(folder, f"P{seed}", seed)
    return [dataset.load(case, ("t1", "t2", "flair"), "t1ce") for case in cases.discover(folder)]


def test_a_patient_knows_its_regions(patients):
    for patient in patients:
        images, region = patient.slices.whole()
        assert images.shape[0] == 4
        assert set(np.unique(region)) == {0, 1, 3}
        assert not images[:, region == 0].any()
        assert (images[3] - images[0])[region == 3].mean() > 2
        assert patient.slices_with(2).tolist() == np.flatnonzero((region == 3).any((1, 2))).tolist()


def test_two_segmentations_are_not_none(tmp_path):
    folder = write_case(tmp_path, "P0")
    shutil.copy(folder / "P0_seg.nii.gz", folder / "P0_dseg.nii.gz")
    (case,) = cases.discover(folder)
    with pytest.raises(CaseError, match="has more than one seg"):
        dataset.load(case, ("t1", "t2", "flair"), "t1ce")


@pytest.mark.parametrize("z", [0, 7, -1])
def test_a_slab_is_a_slice_between_its_neighbours(patients, z):
    images, region = patients[0].slices.whole()
    z %= len(region)
    slab = patients[0].slab(z, 3)
    padded = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (0, 0), (0, 0)))
    assert np.array_equal(slab.sources, padded[:3, z : z + 3])
    assert np.array_equal(slab.target, images[3, z])
    assert np.array_equal(slab.region, region[z])


@pytest.mark.parametrize("crop", [(16, 16), (32, 48), (64, 64)])
def test_draws_have_the_crops_shape_and_follow_from_the_seed(patients, crop):
    first, again, other = (batches.draw(patients, 6, crop, 3, 0.5, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert first.sources.shape == (6, 3, 3, *crop)
    assert first.target.shape == first.region.shape == (6, 1, *crop)
    assert torch.equal(first.sources, again.sources)
    assert not torch.equal(first.sources, other.sources)
    assert (first.region > 0).flatten(1).any(1).all()
    assert not first.target[first.region == 0].any()


def test_lesion_share_draws_lesions(patients):
    rng = np.random.default_rng(0)
    assert (batches.draw(patients, 20, (48, 48), 1, 1.0, rng).region == 3).flatten(1).any(1).all()
    with pytest.raises(InputError, match="no patient"):
        batches.draw([], 1, (16, 16), 1, 0.5, rng)


def test_the_average_style_keeps_enhancement(patients):
    for before, after in zip(patients, dataset.in_style(patients, dataset.average_style(patients)), strict=True):
        middle = int(np.median(before.slices_with(3)))
        made, true = (patient.slab(middle, 1) for patient in (after, before))
        lesion = true.region == 3
        enhancement = [(one.target - one.sources[0, 0])[lesion].mean() for one in (made, true)]
        assert enhancement[0] == pytest.approx(enhancement[1], rel=0.4)
        assert enhancement[0] != enhancement[1]
        assert np.array_equal(made.sources, true.sources)
        assert not made.target[made.region == 0].any()


def test_nothing_is_learnt_where_the_target_was_not_acquired(tmp_path, patients):
    folder = write_case(tmp_path, "P0")
    file = folder / "P0_t1ce.nii.gz"
    image = nib.load(file)
    array = np.asarray(image.dataobj).copy()
    array[:, :, 18:] = 0
    nib.save(nib.Nifti1Image(array, image.affine), file)
    (case,) = cases.discover(folder)
    _, region = dataset.load(case, ("t1", "t2", "flair"), "t1ce").slices.whole()
    _, before = patients[0].slices.whole()
    n = (region > 0).any((1, 2)).sum()
    assert 0 < n < len(before)
    assert np.array_equal(region[:n], before[:n])
