"""A model of several planes: its answer is the mean of what it says in each."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsdiff.inference import model as models
from dsdiff.inference.options import Sampling, plan
from dsdiff.inference.pipeline import run
from dsdiff.inference.volume import planes_of
from dsdiff.volume import Volume
from tests.toy_data import LPS, patient

PLANES = ("axial", "coronal", "sagittal")


@pytest.fixture(scope="module")
def model(model_folder):
    return models.load(model_folder, torch.device("cpu"))


def cut_along(model, *planes):
    """The model with other planes."""
    data = model.config.data.model_copy(update={"planes": planes})
    return replace(model, config=model.config.model_copy(update={"data": data}))


def volumes():
    return {name: Volume(array, LPS) for name, array in patient().items() if name in ("t1", "t2", "flair")}


def test_the_answer_is_the_mean_of_the_planes(model):
    alone = [run(volumes(), cut_along(model, plane)).z for plane in PLANES]
    together = run(volumes(), cut_along(model, *PLANES)).z
    assert np.allclose(together, np.mean(alone, 0), atol=1e-5)
    assert not any(np.allclose(one, together, atol=1e-2) for one in alone)


def test_a_volume_turned_gives_the_answer_turned(model):
    """What a coronal model says of a patient is what an axial one says of the patient with y and z exchanged."""
    affine = np.diag([-1.0, 1, -1, 1])  # LPS with y and z exchanged
    turned = {name: Volume(one.array.swapaxes(1, 2), affine) for name, one in volumes().items()}
    ours, theirs = run(volumes(), cut_along(model, "coronal")), run(turned, cut_along(model, "axial"))
    assert np.allclose(ours.z.swapaxes(1, 2), theirs.z, atol=1e-5)


def test_samples_are_drawn_in_the_first_plane(model):
    three, one = cut_along(model, *PLANES), cut_along(model, "axial")
    assert planes_of(three, plan(three)) == PLANES
    several = Sampling(2, 2)
    assert planes_of(three, several) == ("axial",)
    made, alone = run(volumes(), three, several), run(volumes(), one, several)
    assert np.array_equal(made.z, alone.z)
    assert np.array_equal(made.z_std, alone.z_std)


def test_progress_counts_the_slices_of_every_plane(model):
    seen = []
    run(volumes(), cut_along(model, *PLANES), progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert seen[0] < 1 / 3


def test_memory_changes_no_bit(model):
    three = cut_along(model, *PLANES)
    assert np.array_equal(run(volumes(), three).z, run(volumes(), three, memory=64.0).z)
