"""A model of several planes: its output is the mean over the planes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsdiff.inference.model import Model, load_model
from dsdiff.inference.options import SamplingPlan, SynthesisOptions, plan_sampling
from dsdiff.inference.pipeline import Pipeline
from dsdiff.inference.volume import planes_to_average
from dsdiff.preprocessing.planes import Plane
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, make_patient

PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder, torch.device("cpu"))


def with_planes(model: Model, *planes: Plane) -> Model:
    data = model.config.data.model_copy(update={"planes": planes})
    return replace(model, config=model.config.model_copy(update={"data": data}))


def make_volumes() -> dict[str, Volume]:
    return {name: Volume(array, LPS_AFFINE) for name, array in make_patient().items() if name in ("t1", "t2", "flair")}


def test_output_is_the_mean_over_the_planes(model: Model) -> None:
    by_plane = [Pipeline(with_planes(model, plane)).synthesize_volumes(make_volumes()).z for plane in PLANES]
    average = Pipeline(with_planes(model, *PLANES)).synthesize_volumes(make_volumes()).z
    assert np.allclose(average, np.mean(by_plane, 0), atol=1e-5)
    assert not any(np.allclose(z, average, atol=1e-2) for z in by_plane)


def test_turned_volume_gives_the_turned_output(model: Model) -> None:
    affine = np.diag([-1.0, 1, -1, 1])  # LPS with y and z exchanged
    turned = {name: Volume(volume.array.swapaxes(1, 2), affine) for name, volume in make_volumes().items()}
    coronal = Pipeline(with_planes(model, "coronal")).synthesize_volumes(make_volumes())
    axial = Pipeline(with_planes(model, "axial")).synthesize_volumes(turned)
    assert np.allclose(coronal.z.swapaxes(1, 2), axial.z, atol=1e-5)


def test_samples_use_only_the_first_plane(model: Model) -> None:
    three_planes, axial = with_planes(model, *PLANES), with_planes(model, "axial")
    assert planes_to_average(three_planes, plan_sampling(three_planes)) == PLANES
    assert planes_to_average(three_planes, SamplingPlan(2, 2)) == ("axial",)

    options = SynthesisOptions(steps=2, samples=2)
    result = Pipeline(three_planes, options).synthesize_volumes(make_volumes())
    reference = Pipeline(axial, options).synthesize_volumes(make_volumes())
    assert np.array_equal(result.z, reference.z)
    assert np.array_equal(result.z_std, reference.z_std)


def test_progress_counts_the_slices_of_every_plane(model: Model) -> None:
    fractions: list[float] = []
    Pipeline(with_planes(model, *PLANES)).synthesize_volumes(make_volumes(), progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert fractions[0] < 1 / 3


def test_memory_limit_changes_no_bit(model: Model) -> None:
    three_planes = with_planes(model, *PLANES)
    limited = Pipeline(three_planes, SynthesisOptions(memory_gb=64.0)).synthesize_volumes(make_volumes())
    assert np.array_equal(limited.z, Pipeline(three_planes).synthesize_volumes(make_volumes()).z)
