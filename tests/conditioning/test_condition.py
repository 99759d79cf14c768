import pytest
import torch
from scipy import ndimage

from dsdiff.conditioning import condition
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.edges import (
    HIGH_THRESHOLD,
    HYSTERESIS_STEPS,
    LOW_THRESHOLD,
    canny,
    edge_maps,
    laplacian,
    sobel,
)
from dsdiff.errors import ConfigError
from dsdiff.types import Channel, ConditionLayout

SOURCES = torch.randn(2, 3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
ALL_PRESENT = torch.ones(2, 3, dtype=torch.bool)
CONTRASTS = ("t1", "t2", "flair")


def random_images():
    return torch.randn(2, 3, 17, 13, generator=torch.Generator().manual_seed(0))


def ramp(slope):
    return slope * torch.arange(9.0)[None, None, :, None].repeat(1, 1, 1, 7)


def test_sobel_agrees_with_scipy():
    images = random_images()
    reference = ndimage.generic_gradient_magnitude(images[1, 2].numpy(), ndimage.sobel, mode="nearest") / 8
    assert torch.allclose(sobel(images)[1, 2], torch.from_numpy(reference), atol=1e-5)


def test_sobel_of_a_ramp_is_its_slope():
    assert torch.allclose(sobel(ramp(3))[..., 1:-1, :], torch.tensor(3.0))


def test_maps_are_sources_contrast_by_contrast_then_edges():
    sources = torch.randn(2, 3, 5, 8, 8)
    config = ConditioningConfig(edges="sobel")
    maps = condition.build_condition(config, sources, ALL_PRESENT).maps()
    assert maps.shape[1] == len(config.layout(CONTRASTS, 5).map_channels) == 18
    assert torch.equal(maps[:, 5:10], sources[:, 1])
    assert torch.equal(maps[:, 15:], sobel(sources[:, :, 2]))


def test_maps_without_edges_are_the_sources_only():
    config = ConditioningConfig(edges="none")
    maps = condition.build_condition(config, torch.randn(2, 3, 5, 8, 8), ALL_PRESENT).maps()
    assert maps.shape[1] == len(config.layout(CONTRASTS, 5).map_channels) == 15


def test_layout_names_every_channel_once():
    layout = ConditionLayout(("t1", "flair"), context_slices=3, has_edges=True, encoder_channels=2, has_style=True)
    assert layout.map_channels[:4] == [
        Channel("source", "t1", -1),
        Channel("source", "t1", 0),
        Channel("source", "t1", 1),
        Channel("source", "flair", -1),
    ]
    for channels in (layout.map_channels, layout.stream_channels, layout.guidance_channels):
        assert len(set(channels)) == len(channels)


def test_unknown_edges_raise_an_error():
    with pytest.raises(ConfigError, match="edges 'canyon' is unknown; choose one of sobel, canny"):
        edge_maps("canyon", torch.zeros(1, 1, 4, 4))


def test_laplacian_agrees_with_scipy_and_is_zero_on_a_ramp():
    images = random_images()
    reference = ndimage.laplace(images[1, 2].numpy(), mode="nearest")
    assert torch.allclose(laplacian(images)[1, 2], torch.from_numpy(reference), atol=1e-5)
    assert not laplacian(ramp(3))[..., 1:-1, :].any()


@pytest.mark.parametrize("transposed", [False, True])
def test_canny_of_a_step_is_a_line_of_one_pixel(transposed):
    step = torch.zeros(1, 1, 20, 16)
    step[..., 10:, :] = 4.0
    edges = canny(step.mT if transposed else step)
    edges = edges.mT if transposed else edges
    assert ((edges > 0).sum(2) == 1).all()
    assert set((edges > 0).nonzero()[:, 2].tolist()) <= {9, 10}
    assert edges.max().item() == pytest.approx(4 * 0.27, abs=0.1)  # the step blurred by the Gaussian, sigma 1.4


def test_canny_keeps_weak_edges_only_next_to_strong_ones():
    weak_step = 3.7 * (LOW_THRESHOLD + HIGH_THRESHOLD) / 2  # its gradient lies between the thresholds
    images = torch.zeros(1, 1, 40, 40)
    images[..., 20:, :] = weak_step
    assert not canny(images).any()
    images[..., 20:, 12:] += torch.linspace(0, 1, 28)  # the same line becomes stronger from column 12
    edges = canny(images)[0, 0, 19:21].amax(0)
    first_strong = int((edges > HIGH_THRESHOLD).nonzero()[0])
    assert (edges[first_strong - 10 :] > 0).all()
    assert not edges[: first_strong - HYSTERESIS_STEPS].any()


@pytest.mark.parametrize("name", ["sobel", "canny", "laplacian"])
def test_edge_maps_are_deterministic_and_computed_per_contrast(name):
    maps, repeated_maps = edge_maps(name, SOURCES[:, :, 1]), edge_maps(name, SOURCES[:, :, 1])
    assert torch.equal(maps, repeated_maps)
    assert maps.dtype == torch.float32
    single_contrast = edge_maps(name, SOURCES[:1, 1:2, 1])
    torch.testing.assert_close(single_contrast, maps[:1, 1:2])  # another order of summation
