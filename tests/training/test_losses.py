import math

import numpy as np
import pytest
import torch
import yaml
from skimage.metrics import structural_similarity

from dsdiff.config import run as configs
from dsdiff.config.run import LossConfig
from dsdiff.errors import ConfigError
from dsdiff.training import losses

ERROR = torch.tensor([0.0, 3.0, 0.0, 4.0]).reshape(1, 1, 2, 2)
REGION = torch.tensor([0, 1, 2, 3], dtype=torch.uint8).reshape(1, 1, 2, 2)
ZERO = torch.zeros(1, 1, 2, 2)
PLAIN = {"tumour": 1.0, "enhancing": 1.0}


def of(*terms, region=REGION):
    return losses.total([LossConfig(**term) for term in terms], ERROR, ZERO, 2 * ERROR, ZERO, ZERO, region).item()


def test_loss_by_hand():
    expected = ((math.sqrt(10) - 1) * 1 + 0 * 2 + (math.sqrt(17) - 1) * 5) / 4
    assert of({"epsilon": 1.0, "tumour": 2.0, "enhancing": 5.0}) == pytest.approx(expected)
    assert of({"target": "l1", **PLAIN}) == pytest.approx(7 / 4)
    assert of({"target": "l2", "tumour": 1.0, "enhancing": 2.0}) == pytest.approx((9 + 2 * 16) / 4)
    assert of({"target": "l2"}, region=torch.zeros_like(REGION)) == 0


def test_gradient_by_hand_is_of_x_0():
    """x_0's error is 0 6 / 0 8: outside 6 + 0, brain 2, tumour 8, enhancing 0."""
    assert of({"target": "gradient", **PLAIN}) == pytest.approx((0 * 6 + 2 + 8 + 0) / 4)


def test_edges_must_run_along_those_of_the_start_but_for_what_enhances():
    start = torch.zeros(1, 1, 16, 16)
    start[..., 8:, :] = 3.0
    term, brain = [LossConfig(target="edges", **PLAIN)], torch.ones(1, 1, 16, 16, dtype=torch.uint8)

    def of_image(image, region=brain):
        return losses.total(term, image, image, image, image, start, region).item()

    assert of_image(-2 * start) == pytest.approx(of_image(start), abs=3e-3)  # neither sign nor height matters
    across = start.mT
    assert of_image(across) > of_image(start) + 0.1
    rim = start.clone()
    rim[..., 11:13, 3:6] = 9.0  # enhancement: edges that the start does not have
    enhancing = brain.clone()
    enhancing[..., 11:13, 3:6] = 3
    assert of_image(rim, enhancing) == pytest.approx(of_image(start, enhancing), abs=1e-6)
    assert losses.misaligned(start, start).min().item() == pytest.approx(1 - (1.5**2 / (1.5**2 + 0.04)) ** 2, rel=1e-4)


def test_ranking_by_hand_compares_every_voxel_with_what_enhances_more():
    """Enhancing is the last voxel, made 2, true 3; of the others, made 1, 4 and 2, the last truly enhances more."""
    start, region = torch.full((1, 1, 2, 2), 5.0), torch.tensor([1, 2, 1, 3], dtype=torch.uint8).reshape(1, 1, 2, 2)
    made = start + torch.tensor([1.0, 4.0, 2.0, 2.0]).reshape(1, 1, 2, 2)
    true = start + torch.tensor([0.0, 1.0, 3.5, 3.0]).reshape(1, 1, 2, 2)
    term = [LossConfig(target="ranking", tumour=2.0, enhancing=1.0)]
    expected = (math.log1p(math.exp(1 - 2)) + 2 * math.log1p(math.exp(4 - 2))) / 4
    assert losses.total(term, made, true, made, true, start, region).item() == pytest.approx(expected, rel=1e-6)
    made.requires_grad_()
    nothing = losses.total(term, made, true, made, true, start, region.clamp(max=2))  # enhances
    nothing.backward()
    assert nothing.item() == 0 and (made.grad == 0).all()


def test_ranking_compares_a_slice_where_nothing_enhances_with_those_of_the_batch():
    """The first slice, of one brain voxel made 1, has no enhancing tumour; the second is all of it, made 2, true 3."""
    start = torch.zeros(2, 1, 1, 1)
    made, true = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1), torch.tensor([0.0, 3.0]).reshape(2, 1, 1, 1)
    region = torch.tensor([1, 3], dtype=torch.uint8).reshape(2, 1, 1, 1)
    found = losses.total([LossConfig(target="ranking")], made, true, made, true, start, region).item()
    assert found == pytest.approx(math.log1p(math.exp(1 - 2)) / 2, rel=1e-6)


def test_ranking_asks_what_enhances_to_rise_and_the_rest_to_fall():
    region = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
    region[..., 2:4, 2:4] = 3
    truth = 3.0 * (region == 3)
    made = torch.zeros(1, 1, 8, 8, requires_grad=True)
    losses.total([LossConfig(target="ranking")], made, truth, made, truth, torch.zeros_like(truth), region).backward()
    assert (made.grad[region == 3] < 0).all() and (made.grad[region == 1] > 0).all()


def test_terms_add_up_by_their_weights():
    l1, l2 = {"target": "l1", "weight": 0.5}, {"target": "l2", "weight": 3.0}
    assert of(l1, l2) == pytest.approx(of(l1) + of(l2))
    assert of(l1) == pytest.approx(0.5 * of({"target": "l1"}))


def test_ssim_is_scikit_images():
    x, y = np.random.default_rng(0).normal(size=(2, 40, 48)) * 2
    _, expected = structural_similarity(
        x, y, data_range=losses.RANGE, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    found = 1 - losses.dissimilarity(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
    inside = (slice(5, -5), slice(5, -5))  # beyond the edges scikit-image mirrors
    assert np.allclose(found[0, 0].numpy()[inside], expected[inside], atol=1e-12)
    same = torch.from_numpy(x)[None, None]
    assert losses.dissimilarity(same, same).abs().max() < 1e-12


def test_one_term_is_written_as_it_is_read_and_several_as_a_list():
    one = configs.parse({"loss": {"target": "charbonnier", "epsilon": 2.0, "tumour": 4.0}}, "one")
    assert one.loss == (LossConfig(target="charbonnier", epsilon=2.0, tumour=4.0),)
    assert configs.parse(yaml.safe_load(configs.dump(one)), "again") == one
    several = configs.parse({"loss": [{"target": "l2"}, {"target": "ssim", "weight": 0.1}]}, "several")
    assert [(term.target, term.weight, term.epsilon) for term in several.loss] == [
        ("l2", 1.0, None),
        ("ssim", 0.1, None),
    ]
    assert LossConfig().epsilon == 1.0


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ({"target": "l2", "epsilon": 1.0}, "epsilon is 1.0; charbonnier needs one"),
        ({"target": "charbonnier", "epsilon": None}, "charbonnier needs one"),
        ({"target": "mse"}, r"loss\.0\.target"),
        ([], "loss"),
        ([{"target": "l1", "wieght": 1}], r"loss\.0\.wieght: there is no such key"),
    ],
)
def test_mistakes_are_named(loss, says):
    with pytest.raises(ConfigError, match=says):
        configs.parse({"loss": loss}, "test")


@pytest.mark.parametrize("target", ["charbonnier", "l1", "l2", "ssim", "gradient", "edges", "ranking"])
def test_what_lies_outside_the_brain_counts_nothing(target):
    generator = torch.Generator().manual_seed(0)
    made, truth, start = (torch.randn(1, 1, 24, 24, generator=generator) for _ in range(3))
    region = torch.zeros(1, 1, 24, 24, dtype=torch.uint8)
    region[..., 4:20, 4:20], region[..., 8:12, 8:12] = 1, 3
    outside = 3 * (region == 0)
    terms = [LossConfig(target=target)]
    plain = losses.total(terms, made, truth, made, truth, start, region)
    assert plain > 0
    for a, b in ((made + outside, truth), (made, truth - outside)):
        assert torch.equal(losses.total(terms, a, b, a, b, start, region), plain)
