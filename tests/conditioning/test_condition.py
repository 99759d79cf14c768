import pytest
import torch
from scipy import ndimage

from dsdiff.conditioning import condition
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.edges import HIGH, LOW, REACH, canny, laplacian, sobel, structure
from dsdiff.errors import ConfigError

SOURCES = torch.randn(2, 3, 3, 16, 24, generator=torch.Generator().manual_seed(0))
THERE = torch.ones(2, 3, dtype=torch.bool)


def test_sobel_agrees_with_scipy():
    images = torch.randn(2, 3, 17, 13, generator=torch.Generator().manual_seed(0))
    reference = ndimage.generic_gradient_magnitude(images[1, 2].numpy(), ndimage.sobel, mode="nearest") / 8
    assert torch.allclose(sobel(images)[1, 2], torch.from_numpy(reference), atol=1e-5)


def test_sobel_of_a_ramp_is_its_slope():
    ramp = 3 * torch.arange(9.0)[None, None, :, None].repeat(1, 1, 1, 7)
    assert torch.allclose(sobel(ramp)[..., 1:-1, :], torch.tensor(3.0))


def test_maps_are_sources_contrast_by_contrast_then_structure():
    sources = torch.randn(2, 3, 5, 8, 8)
    config = ConditioningConfig(edges="sobel")
    cond = condition.build(config, sources, torch.ones(2, 3, dtype=torch.bool))
    maps = cond.maps()
    assert maps.shape[1] == config.layout(("t1", "t2", "flair"), 5).channels == 18
    assert torch.equal(maps[:, 5:10], sources[:, 1])
    assert torch.equal(maps[:, 15:], sobel(sources[:, :, 2]))
    plain = ConditioningConfig(edges="none")
    assert (
        condition.build(plain, sources, torch.ones(2, 3, dtype=torch.bool)).maps().shape[1]
        == plain.layout(("t1", "t2", "flair"), 5).channels
        == 15
    )


def test_an_unknown_structure_is_refused():
    with pytest.raises(ConfigError, match="'canyon' is unknown; there are: sobel, canny"):
        structure("canyon", torch.zeros(1, 1, 4, 4))


def test_laplacian_agrees_with_scipy_and_is_zero_on_a_ramp():
    images = torch.randn(2, 3, 17, 13, generator=torch.Generator().manual_seed(0))
    reference = ndimage.laplace(images[1, 2].numpy(), mode="nearest")
    assert torch.allclose(laplacian(images)[1, 2], torch.from_numpy(reference), atol=1e-5)
    ramp = 3 * torch.arange(9.0)[None, None, :, None].repeat(1, 1, 1, 7)
    assert not laplacian(ramp)[..., 1:-1, :].any()


@pytest.mark.parametrize("turned", [False, True])
def test_canny_of_a_step_is_a_line_of_one_pixel(turned):
    step = torch.zeros(1, 1, 20, 16)
    step[..., 10:, :] = 4.0
    edges = canny(step.mT if turned else step)
    edges = edges.mT if turned else edges
    assert ((edges > 0).sum(2) == 1).all()
    assert set((edges > 0).nonzero()[:, 2].tolist()) <= {9, 10}
    assert edges.max().item() == pytest.approx(4 * 0.27, abs=0.1)  # the step seen through the Gaussian, sigma 1.4


def test_canny_keeps_weak_edges_only_where_they_join_strong_ones():
    weak = 3.7 * (LOW + HIGH) / 2  # a step of this height has a gradient between LOW and HIGH
    images = torch.zeros(1, 1, 40, 40)
    images[..., 20:, :] = weak
    assert not canny(images).any()
    images[..., 20:, 12:] += torch.linspace(0, 1, 28)  # the same line, stronger and stronger
    edges = canny(images)[0, 0, 19:21].amax(0)
    strong = int((edges > HIGH).nonzero()[0])
    assert (edges[strong - 10 :] > 0).all()
    assert not edges[: strong - REACH].any()  # further than an edge is followed


def test_structure_of_every_name_is_deterministic_and_of_every_source():
    for name in ("sobel", "canny", "laplacian"):
        one, other = structure(name, SOURCES[:, :, 1]), structure(name, SOURCES[:, :, 1])
        assert torch.equal(one, other)
        assert one.dtype == torch.float32
        torch.testing.assert_close(structure(name, SOURCES[:1, 1:2, 1]), one[:1, 1:2])  # another order of summing
