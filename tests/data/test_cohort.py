from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import write_case

from dsdiff.data import augment, cases, cohort
from dsdiff.data import batch as batches
from dsdiff.errors import InputError


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(2):
        write_case(folder, f"P{seed}", seed)
    return [cohort.load(case, ("t1", "t2", "flair"), "t1ce") for case in cases.discover(folder)]


def test_a_patient_knows_its_regions(patients):
    for patient in patients:
        images, region = patient.slices.whole()
        assert images.shape[0] == 4
        assert set(np.unique(region)) == {0, 1, 3}
        assert not images[:, region == 0].any()
        assert (images[3] - images[0])[region == 3].mean() > 2
        assert patient.slices_with(2).tolist() == np.flatnonzero((region == 3).any((1, 2))).tolist()


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
    for before, after in zip(patients, cohort.in_style(patients, cohort.average_style(patients)), strict=True):
        middle = int(np.median(before.slices_with(3)))
        made, true = (patient.slab(middle, 1) for patient in (after, before))
        lesion = true.region == 3
        enhancement = [(one.target - one.sources[0, 0])[lesion].mean() for one in (made, true)]
        assert enhancement[0] == pytest.approx(enhancement[1], rel=0.4)
        assert enhancement[0] != enhancement[1]
        assert np.array_equal(made.sources, true.sources)
        assert not made.target[made.region == 0].any()


def test_augmentation_moves_all_images_alike_and_leaves_the_target_its_values(patients):
    batch = batches.draw(patients, 4, (48, 64), 3, 0.5, np.random.default_rng(0))
    moved = batches.augmented(batch, torch.Generator().manual_seed(1))
    assert moved.sources.shape == batch.sources.shape
    assert set(moved.region.unique().tolist()) <= {0, 1, 3}
    inside = moved.region > 0
    assert moved.target[inside].mean().item() == pytest.approx(batch.target[batch.region > 0].mean().item(), abs=0.3)
    # what was bright with the target is bright after: lesions moved together with their labels
    assert moved.target[moved.region == 3].mean() > moved.target[moved.region == 1].mean() + 2


def test_restyling_keeps_order_and_background():
    pixels = torch.linspace(-6, 8, 200).reshape(200, 1, 1, 1, 1)
    one = [augment.restyle(pixels[i : i + 1], torch.Generator().manual_seed(0)).item() for i in range(200)]
    assert all(a < b for a, b in pairwise(one))  # the same draw for all: darker stays darker
    other = augment.restyle(pixels[:1], torch.Generator().manual_seed(1)).item()
    assert other != pytest.approx(one[0])
    flat = torch.zeros(1, 1, 1, 8, 8)
    assert not augment.restyle(flat, torch.Generator().manual_seed(0)).any()


def test_flips_exchange_left_and_right():
    images = torch.arange(24.0).reshape(1, 1, 6, 4).repeat(40, 1, 1, 1)
    flipped = augment.flip(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(2)).flatten(1).all(1)
    assert 8 < mirrored.sum() < 32
    assert (flipped == images).flatten(1).all(1)[~mirrored].all()
