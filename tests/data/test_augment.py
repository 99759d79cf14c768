"""Augmentation: geometry moves all images alike, intensity changes only the sources, and off changes nothing."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dsdiff.config.run import parse_config
from dsdiff.data import preparation, target_style
from dsdiff.data.augment_geometry import augment_geometry
from dsdiff.data.augment_intensity import augment_intensity, blur_in_plane, simulate_thick_slices
from dsdiff.data.batch_sampling import augment_batch, sample_batch
from dsdiff.data.settings import Affine, AugmentConfig, Blur, DataConfig, Flip, Noise, RandomAnisotropy
from dsdiff.errors import ConfigError
from dsdiff.inference.model import load_model
from dsdiff.io.cases import discover_cases
from tests.toy_data import TINY_CONFIG, write_case

GEOMETRY = ("flip", "affine", "elastic")
INTENSITY = ("scanner", "bias", "gamma", "blur", "anisotropy", "noise")
TENSORS = ("sources", "target", "region", "present", "style_image")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(2):
        write_case(folder, f"P{seed}", seed)
    patients = [preparation.load_patient(case, ("t1", "t2", "flair"), "t1ce") for case in discover_cases(folder)]
    patients, _ = target_style.attach_style_codes(patients, "linear")
    return sample_batch(patients, 6, DataConfig(crop=(48, 64), style_dropout=0.0), np.random.default_rng(0))


def turn_on(kind, **values):
    """A config with one augmentation, which changes every slice."""
    off = AugmentConfig.off().model_dump()
    return AugmentConfig.model_validate(off | {kind: {"probability": 1.0} | values})


def make_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_off_is_the_identity_and_takes_no_random_number(batch):
    generator = make_generator()
    augmented = augment_batch(batch, AugmentConfig.off(), generator)
    for name in TENSORS:
        assert torch.equal(getattr(augmented, name), getattr(batch, name)), name
    assert torch.equal(generator.get_state(), make_generator().get_state())


@pytest.mark.parametrize("kind", [*GEOMETRY, *INTENSITY])
def test_each_kind_changes_slices_and_depends_only_on_the_generator(batch, kind):
    first, second, other_seed = (augment_batch(batch, turn_on(kind), make_generator(seed)) for seed in (1, 1, 2))
    assert not torch.equal(first.sources, batch.sources)
    assert torch.equal(first.sources, second.sources)
    assert torch.equal(first.sources, other_seed.sources) == (kind == "flip")  # all slices are flipped


@pytest.mark.parametrize("kind", GEOMETRY)
def test_geometry_moves_all_images_alike(batch, kind):
    # All images are copies of the labels. After the move they still are, except where interpolation blends labels.
    labels = batch.region.float()
    copies = replace(batch, sources=labels[:, :, None].repeat(1, 3, 3, 1, 1), target=labels, style_image=labels)
    augmented = augment_batch(copies, turn_on(kind), make_generator())
    assert not torch.equal(augmented.region, batch.region)
    assert set(augmented.region.unique().tolist()) <= {0, 1, 3}
    assert torch.equal(augmented.sources[:, 0, 1], augmented.target[:, 0])
    assert torch.equal(augmented.style_image, augmented.target)
    assert ((augmented.target - augmented.region).abs() < 0.5).float().mean() > 0.9


@pytest.mark.parametrize("kind", INTENSITY)
def test_intensity_changes_only_sources_and_only_in_the_brain(batch, kind):
    augmented = augment_batch(batch, turn_on(kind), make_generator())
    for name in TENSORS[1:]:
        assert torch.equal(getattr(augmented, name), getattr(batch, name)), name
    assert not augmented.sources[batch.sources == 0].any()
    assert torch.isfinite(augmented.sources).all()
    brain = batch.sources != 0
    original_values, augmented_values = batch.sources[brain], augmented.sources[brain]
    assert augmented_values.median().item() == pytest.approx(original_values.median().item(), abs=0.6)
    assert 0.4 < augmented_values.std() / original_values.std() < 1.6


@pytest.mark.parametrize("kind", ["scanner", "gamma"])
def test_intensity_curves_are_monotone(kind):
    values = torch.linspace(-4.4, 8, 200).reshape(200, 1, 1, 1, 1)
    curve = [augment_intensity(value[None], turn_on(kind), make_generator()).item() for value in values]
    assert all(lower < upper for lower, upper in pairwise(curve))


def test_gamma_keeps_the_median_and_the_slope_there():
    value = torch.full((1, 1, 1, 1, 1), 1e-3)
    assert augment_intensity(value, turn_on("gamma"), make_generator()).item() == pytest.approx(1e-3, rel=0.01)


def test_thick_slices_are_means_along_one_axis():
    sources = torch.randn(1, 1, 3, 24, 24, generator=make_generator())
    images = sources[0, 0]
    inner = (slice(None), slice(1, -1), slice(1, -1))
    axes = set()
    for seed in range(12):
        thick = simulate_thick_slices(sources, RandomAnisotropy(max_thickness=2.0), make_generator(seed))[0, 0]
        if torch.allclose(thick, images.mean(0).expand(3, -1, -1)):
            axes.add("context slices")
        for name, axis in (("h", 1), ("w", 2)):
            means = images.unflatten(axis, (12, 2)).mean(axis + 1)
            interpolated = 0.75 * means + 0.125 * (means.roll(1, axis) + means.roll(-1, axis))
            if torch.allclose(thick.unflatten(axis, (12, 2)).mean(axis + 1)[inner], interpolated[inner], atol=1e-5):
                axes.add(name)
    assert axes == {"h", "w", "context slices"}


def test_a_blurred_point_is_a_gaussian():
    point = torch.zeros(1, 1, 1, 33, 33)
    point[..., 16, 16] = 1
    blurred = blur_in_plane(point, Blur(strength=2.0), make_generator(0))[0, 0, 0]
    sigma = torch.rand(1, generator=make_generator(0)).item() * 2
    offsets = torch.arange(-16, 17.0)
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    assert (blurred * offsets.square()).sum().item() == pytest.approx(sigma**2, rel=0.05)


@pytest.mark.parametrize("probability", [0.5, 0.1])
def test_flips_have_their_probability_with_and_without_a_warp(probability):
    images = torch.arange(24.0).reshape(1, 1, 6, 4).repeat(400, 1, 1, 1)
    config = AugmentConfig.off().model_copy(update={"flip": Flip(probability=probability)})
    flipped, labels = augment_geometry(images, images, config, make_generator())
    is_flipped = (flipped == images.flip(2)).flatten(1).all(1)
    assert is_flipped.float().mean().item() == pytest.approx(probability, abs=0.07)
    assert (flipped == images).flatten(1).all(1)[~is_flipped].all()
    assert torch.equal(labels, flipped)
    identity = config.model_copy(update={"affine": Affine(degrees=0, zoom=0, shear=0)})
    warped, labels = augment_geometry(images, images, identity, make_generator())
    assert torch.allclose(warped, flipped, atol=1e-4)
    assert torch.equal(labels, flipped)


def parse_augment(value):
    return parse_config({**TINY_CONFIG, "data": {**TINY_CONFIG["data"], "augment": value}}, "test").data.augment


def test_true_means_the_defaults_and_false_none():
    assert parse_augment(True) == AugmentConfig()
    assert parse_augment(False) == AugmentConfig.off()
    assert [name for name, kind in AugmentConfig() if kind.probability] == ["flip", "affine", "scanner"]


def test_augmentations_are_set_one_by_one():
    assert parse_augment({"noise": {"probability": 0.2}}).noise == Noise(probability=0.2, strength=0.3)
    with pytest.raises(ConfigError, match=r"augment\.noise\.probability"):
        parse_augment({"noise": {"probability": 1.2}})
    with pytest.raises(ConfigError, match=r"augment\.contrast"):
        parse_augment({"contrast": {}})


def test_configs_of_models_give_their_augmentation(model_folder):
    text = (model_folder / "config.yaml").read_text()
    assert "augment:\n    flip:\n      probability: 0.5" in text
    switched = OmegaConf.to_container(OmegaConf.create(text.split("  augment:")[0] + "  augment: true\n"))
    assert parse_config(switched, "switched").data.augment == AugmentConfig()
    assert load_model("default", torch.device("cpu")).config.data.augment == AugmentConfig()  # its config says true
