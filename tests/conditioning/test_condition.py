import pytest
import torch
from scipy import ndimage

from dsdiff.conditioning import condition
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.structure import sobel, structure
from dsdiff.errors import ConfigError


def test_sobel_agrees_with_scipy():
    images = torch.randn(2, 3, 17, 13, generator=torch.Generator().manual_seed(0))
    reference = ndimage.generic_gradient_magnitude(images[1, 2].numpy(), ndimage.sobel, mode="nearest") / 8
    assert torch.allclose(sobel(images)[1, 2], torch.from_numpy(reference), atol=1e-5)


def test_sobel_of_a_ramp_is_its_slope():
    ramp = 3 * torch.arange(9.0)[None, None, :, None].repeat(1, 1, 1, 7)
    assert torch.allclose(sobel(ramp)[..., 1:-1, :], torch.tensor(3.0))


def test_maps_are_sources_contrast_by_contrast_then_structure():
    sources = torch.randn(2, 3, 5, 8, 8)
    config = ConditioningConfig(structure="sobel")
    cond = condition.build(config, sources, torch.ones(2, 3, dtype=torch.bool))
    maps = cond.maps()
    assert maps.shape[1] == config.layout(("t1", "t2", "flair"), 5).channels == 18
    assert torch.equal(maps[:, 5:10], sources[:, 1])
    assert torch.equal(maps[:, 15:], sobel(sources[:, :, 2]))
    plain = ConditioningConfig(structure="none")
    assert (
        condition.build(plain, sources, torch.ones(2, 3, dtype=torch.bool)).maps().shape[1]
        == plain.layout(("t1", "t2", "flair"), 5).channels
        == 15
    )


def test_an_unknown_structure_is_refused():
    with pytest.raises(ConfigError, match="'canyon' is unknown; there are: sobel, none"):
        structure("canyon", torch.zeros(1, 1, 4, 4))
