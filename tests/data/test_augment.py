"""Augmentation: geometry moves everything alike, intensity the sources alone, and what is off changes nothing."""

from itertools import pairwise

import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.data import augment, dataset
from dsdiff.data import batch_sampling as batches
from dsdiff.data.augment import AugmentConfig
from dsdiff.errors import ConfigError
from dsdiff.inference import model as models
from dsdiff.io import cases
from tests.toy_data import TINY, write_case

GEOMETRY, INTENSITY = ("flip", "affine", "elastic"), ("restyle", "bias", "gamma", "blur", "thick", "noise")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(2):
        write_case(folder, f"P{seed}", seed)
    loaded = [dataset.load(case, ("t1", "t2", "flair"), "t1ce") for case in cases.discover(folder)]
    patients, _ = dataset.with_styles(loaded, "linear")
    return batches.draw(patients, 6, (48, 64), 3, 0.5, batches.np.random.default_rng(0))


def only(*kinds, **more):
    off = AugmentConfig.off().model_dump()
    return AugmentConfig.model_validate(off | {kind: {"probability": 1.0} | more for kind in kinds})


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


def test_off_is_the_identity_and_draws_nothing(batch):
    generator = dice()
    same = batches.augmented(batch, AugmentConfig.off(), generator)
    for name in ("sources", "target", "region", "present", "styled"):
        assert torch.equal(getattr(same, name), getattr(batch, name)), name
    assert torch.equal(generator.get_state(), dice().get_state())


@pytest.mark.parametrize("kind", [*GEOMETRY, *INTENSITY])
def test_every_kind_changes_something_and_follows_from_its_generator(batch, kind):
    first, again, other = (batches.augmented(batch, only(kind), dice(seed)) for seed in (1, 1, 2))
    assert not torch.equal(first.sources, batch.sources)
    assert torch.equal(first.sources, again.sources)
    assert torch.equal(first.sources, other.sources) == (kind == "flip")  # all are flipped


@pytest.mark.parametrize("kind", GEOMETRY)
def test_geometry_moves_everything_alike(batch, kind):
    # images that repeat the labels: after the move they must still do so, but where interpolation blends
    label = batch.region.float()
    copied = batches.replace(batch, sources=label[:, :, None].repeat(1, 3, 3, 1, 1), target=label, styled=label)
    moved = batches.augmented(copied, only(kind), dice())
    assert not torch.equal(moved.region, batch.region)
    assert set(moved.region.unique().tolist()) <= {0, 1, 3}
    assert torch.equal(moved.sources[:, 0, 1], moved.target[:, 0])
    assert torch.equal(moved.styled, moved.target)
    assert ((moved.target - moved.region).abs() < 0.5).float().mean() > 0.9


@pytest.mark.parametrize("kind", INTENSITY)
def test_intensity_changes_the_sources_alone_and_in_the_brain_alone(batch, kind):
    changed = batches.augmented(batch, only(kind), dice())
    for name in ("target", "region", "present", "styled"):
        assert torch.equal(getattr(changed, name), getattr(batch, name)), name
    assert not changed.sources[batch.sources == 0].any()
    inside = batch.sources != 0
    assert torch.isfinite(changed.sources).all()
    assert changed.sources[inside].median().item() == pytest.approx(batch.sources[inside].median().item(), abs=0.6)
    ratio = changed.sources[inside].std() / batch.sources[inside].std()
    assert 0.4 < ratio < 1.6


@pytest.mark.parametrize("kind", ["restyle", "gamma"])
def test_curves_of_intensity_keep_order_and_the_median(kind):
    values = torch.linspace(-4.4, 8, 200).reshape(200, 1, 1, 1, 1)
    config = only(kind)
    one = [augment.seen(values[i : i + 1], config, dice()).item() for i in range(200)]
    assert all(a < b for a, b in pairwise(one))
    near = torch.full((1, 1, 1, 1, 1), 1e-3)
    if kind == "gamma":
        assert augment.seen(near, config, dice()).item() == pytest.approx(1e-3, rel=0.01)


def test_thick_slices_are_means_along_one_axis():
    sources = torch.randn(1, 1, 3, 24, 24, generator=dice())
    axes = set()
    for seed in range(12):
        made = augment.anisotropy(sources, augment.RandomAnisotropy(max_thickness=2.0), dice(seed))[0, 0]
        halves = {
            "h": sources[0, 0].unflatten(1, (12, 2)).mean(2), "w": sources[0, 0].unflatten(2, (12, 2)).mean(3)
        }  # fmt: skip
        if torch.allclose(made, sources[0, 0].mean(0).expand(3, -1, -1)):
            axes.add("slab")
        for axis, means in halves.items():
            again = made.unflatten(1 if axis == "h" else 2, (12, 2)).mean(2 if axis == "h" else 3)
            linear = 0.75 * means + 0.125 * (
                means.roll(1, 1 if axis == "h" else 2) + means.roll(-1, 1 if axis == "h" else 2)
            )
            inner = (slice(None), slice(1, -1), slice(1, -1))
            if torch.allclose(again[inner], linear[inner], atol=1e-5):
                axes.add(axis)
    assert axes == {"h", "w", "slab"}


def test_a_blur_of_a_point_is_a_gaussian():
    point = torch.zeros(1, 1, 1, 33, 33)
    point[..., 16, 16] = 1
    made = augment.blur(point, augment.Blur(strength=2.0), dice(0))[0, 0, 0]
    sigma = torch.rand(1, generator=dice(0)).item() * 2
    across = torch.arange(-16, 17.0)
    assert made.sum().item() == pytest.approx(1, abs=1e-5)
    assert (made * across.square()).sum().item() == pytest.approx(sigma**2, rel=0.05)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_share_of_the_slices_is_flipped_and_a_warp_flips_them_as_well(share):
    images = torch.arange(24.0).reshape(1, 1, 6, 4).repeat(400, 1, 1, 1)
    config = AugmentConfig.off().model_copy(update={"flip": augment.Flip(probability=share)})
    flipped, labels = augment.moved(images, images, config, dice())
    mirrored = (flipped == images.flip(2)).flatten(1).all(1)
    assert mirrored.float().mean().item() == pytest.approx(share, abs=0.07)
    assert (flipped == images).flatten(1).all(1)[~mirrored].all()
    assert torch.equal(labels, flipped)
    still = augment.Affine(degrees=0, zoom=0, shear=0)
    warped, labels = augment.moved(images, images, config.model_copy(update={"affine": still}), dice())
    assert torch.allclose(warped, flipped, atol=1e-4)
    assert torch.equal(labels, flipped)


def test_a_switch_still_means_the_defaults_or_nothing(model_folder):
    def parsed(value):
        return configs.parse({**TINY, "data": {**TINY["data"], "augment": value}}, "test").data.augment

    assert parsed(True) == AugmentConfig()
    assert parsed(False) == AugmentConfig.off()
    assert parsed({"noise": {"probability": 0.2}}).noise == augment.Noise(probability=0.2, strength=0.3)
    on = [name for name, kind in AugmentConfig() if kind.probability]
    assert on == ["flip", "affine", "restyle"]
    with pytest.raises(ConfigError, match=r"augment\.noise\.probability"):
        parsed({"noise": {"probability": 1.2}})
    with pytest.raises(ConfigError, match=r"augment\.contrast"):
        parsed({"contrast": {}})
    resolved = model_folder / "config.yaml"
    assert "augment:\n    flip:\n      probability: 0.5" in resolved.read_text()
    old = resolved.read_text().split("  augment:")[0] + "  augment: true\n"
    assert (
        configs.parse(configs.OmegaConf.to_container(configs.OmegaConf.create(old)), "old").data.augment
        == AugmentConfig()
    )
    assert models.load("default", torch.device("cpu")).config.data.augment == AugmentConfig()  # its config says true
