import math
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from skimage.metrics import structural_similarity

from dsdiff.config.run import dump_config, parse_config
from dsdiff.config.training import LossConfig
from dsdiff.errors import ConfigError
from dsdiff.training import losses
from dsdiff.training.losses import LossInputs

ERROR = torch.tensor([0.0, 3.0, 0.0, 4.0]).reshape(1, 1, 2, 2)
REGION = torch.tensor([0, 1, 2, 3], dtype=torch.uint8).reshape(1, 1, 2, 2)
ZERO = torch.zeros(1, 1, 2, 2)
EQUAL_WEIGHTS = {"tumour": 1.0, "enhancing": 1.0}


def loss_of_error(*terms, region=REGION):
    """The loss if the prediction is wrong by `ERROR` and the T1ce by twice as much."""
    inputs = LossInputs(
        prediction=ERROR, prediction_target=ZERO, x_0_pred=2 * ERROR, x_0=ZERO, source=ZERO, region=region
    )
    return losses.weighted_loss([LossConfig(**term) for term in terms], inputs).item()


def loss_of_images(term, x_0_pred, x_0, source, region):
    """The loss of a process that predicts the T1ce itself."""
    inputs = LossInputs(
        prediction=x_0_pred, prediction_target=x_0, x_0_pred=x_0_pred, x_0=x_0, source=source, region=region
    )
    return losses.weighted_loss([term], inputs)


def column(*values):
    return torch.tensor(values).reshape(-1, 1, 1, 1)


def square(*values):
    return torch.tensor(values).reshape(1, 1, 2, 2)


def brain_mask(size):
    return torch.ones(1, 1, size, size, dtype=torch.uint8)


def test_every_loss_of_a_config_is_registered():
    assert set(losses.LOSSES) == set(get_args(LossConfig.model_fields["target"].annotation))


def test_losses_match_hand_computed_values():
    expected = ((math.sqrt(10) - 1) * 1 + 0 * 2 + (math.sqrt(17) - 1) * 5) / 4
    assert loss_of_error({"epsilon": 1.0, "tumour": 2.0, "enhancing": 5.0}) == pytest.approx(expected)
    assert loss_of_error({"target": "l1", **EQUAL_WEIGHTS}) == pytest.approx(7 / 4)
    assert loss_of_error({"target": "l2", "tumour": 1.0, "enhancing": 2.0}) == pytest.approx((9 + 2 * 16) / 4)
    assert loss_of_error({"target": "l2"}, region=torch.zeros_like(REGION)) == 0


def test_gradient_loss_matches_hand_computed_values():
    """The error of x_0 is 0 6 / 0 8: outside 6 + 0, brain 2, tumour 8, enhancing 0."""
    assert loss_of_error({"target": "gradient", **EQUAL_WEIGHTS}) == pytest.approx((0 * 6 + 2 + 8 + 0) / 4)


class TestEdges:
    term = LossConfig(target="edges", **EQUAL_WEIGHTS)
    brain = brain_mask(16)

    def source(self):
        step = torch.zeros(1, 1, 16, 16)
        step[..., 8:, :] = 3.0
        return step

    def loss(self, image, region):
        return loss_of_images(self.term, image, image, self.source(), region).item()

    def test_edges_in_the_direction_of_the_source_cost_least_whatever_their_sign_and_height(self):
        source = self.source()
        loss_of_source = self.loss(source, self.brain)
        assert self.loss(-2 * source, self.brain) == pytest.approx(loss_of_source, abs=3e-3)
        assert self.loss(source.mT, self.brain) > loss_of_source + 0.1

    def test_edges_of_enhancing_tumour_cost_nothing(self):
        with_rim = self.source()
        with_rim[..., 11:13, 3:6] = 9.0
        region = self.brain.clone()
        region[..., 11:13, 3:6] = 3
        assert self.loss(with_rim, region) == pytest.approx(self.loss(self.source(), region), abs=1e-6)

    def test_ngf_loss_of_equal_images_depends_on_eta_only(self):
        loss_map = losses.ngf_loss(self.source(), self.source())
        assert loss_map.min().item() == pytest.approx(1 - (1.5**2 / (1.5**2 + 0.04)) ** 2, rel=1e-4)


class TestRanking:
    def test_every_voxel_is_compared_with_tumour_that_enhances_more(self):
        """The last voxel is enhancing tumour: predicted 2, true 3. Of the other three (predicted 1, 4, 2), the third
        truly enhances more and does not count."""
        source, region = torch.full((1, 1, 2, 2), 5.0), square(1, 2, 1, 3).to(torch.uint8)
        x_0_pred, x_0 = source + square(1.0, 4.0, 2.0, 2.0), source + square(0.0, 1.0, 3.5, 3.0)
        term = LossConfig(target="ranking", tumour=2.0, enhancing=1.0)
        expected = (math.log1p(math.exp(1 - 2)) + 2 * math.log1p(math.exp(4 - 2))) / 4
        assert loss_of_images(term, x_0_pred, x_0, source, region).item() == pytest.approx(expected, rel=1e-6)

    def test_without_enhancing_tumour_the_loss_and_its_gradient_are_zero(self):
        region = square(1, 2, 1, 2).to(torch.uint8)
        x_0_pred = square(1.0, 4.0, 2.0, 2.0).requires_grad_()
        x_0 = square(0.0, 1.0, 3.5, 3.0)
        loss = loss_of_images(LossConfig(target="ranking"), x_0_pred, x_0, ZERO, region)
        loss.backward()
        assert loss.item() == 0
        assert (x_0_pred.grad == 0).all()

    def test_a_slice_without_enhancing_tumour_is_compared_with_the_batch(self):
        """The first slice is one brain voxel, predicted 1. The second is one voxel of enhancing tumour: 2, true 3."""
        x_0_pred, x_0, region = column(1.0, 2.0), column(0.0, 3.0), column(1, 3).to(torch.uint8)
        loss = loss_of_images(LossConfig(target="ranking"), x_0_pred, x_0, torch.zeros(2, 1, 1, 1), region)
        assert loss.item() == pytest.approx(math.log1p(math.exp(1 - 2)) / 2, rel=1e-6)

    def test_the_gradient_raises_enhancing_tumour_and_lowers_the_rest(self):
        region = brain_mask(8)
        region[..., 2:4, 2:4] = 3
        x_0 = 3.0 * (region == 3)
        x_0_pred = torch.zeros(1, 1, 8, 8, requires_grad=True)
        loss_of_images(LossConfig(target="ranking"), x_0_pred, x_0, torch.zeros_like(x_0), region).backward()
        assert (x_0_pred.grad[region == 3] < 0).all()
        assert (x_0_pred.grad[region == 1] > 0).all()


def test_terms_add_up_by_their_weights():
    l1, l2 = {"target": "l1", "weight": 0.5}, {"target": "l2", "weight": 3.0}
    assert loss_of_error(l1, l2) == pytest.approx(loss_of_error(l1) + loss_of_error(l2))
    assert loss_of_error(l1) == pytest.approx(0.5 * loss_of_error({"target": "l1"}))


def test_ssim_loss_agrees_with_scikit_image():
    x, y = np.random.default_rng(0).normal(size=(2, 40, 48)) * 2
    _, ssim = structural_similarity(
        x, y, data_range=losses.DATA_RANGE, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    image_x, image_y = torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None]
    ssim_map = 1 - losses.ssim_loss(image_x, image_y)[0, 0].numpy()
    inside = (slice(5, -5), slice(5, -5))  # scikit-image mirrors at the border
    assert np.allclose(ssim_map[inside], ssim[inside], atol=1e-12)
    assert losses.ssim_loss(image_x, image_x).abs().max() < 1e-12


def test_a_single_term_is_written_without_a_list():
    config = parse_config({"loss": {"target": "charbonnier", "epsilon": 2.0, "tumour": 4.0}}, "one")
    assert config.loss == (LossConfig(target="charbonnier", epsilon=2.0, tumour=4.0),)
    written = yaml.safe_load(dump_config(config))
    assert isinstance(written["loss"], dict)
    assert parse_config(written, "again") == config


def test_several_terms_are_a_list_with_defaults():
    config = parse_config({"loss": [{"target": "l2"}, {"target": "ssim", "weight": 0.1}]}, "several")
    assert [(term.target, term.weight, term.epsilon) for term in config.loss] == [
        ("l2", 1.0, None),
        ("ssim", 0.1, None),
    ]
    assert LossConfig().epsilon == 1.0


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"target": "l2", "epsilon": 1.0}, "epsilon is 1.0.*charbonnier needs"),
        ({"target": "charbonnier", "epsilon": None}, "charbonnier needs"),
        ({"target": "mse"}, r"loss\.0\.target"),
        ([], "loss"),
        ([{"target": "l1", "wieght": 1}], r"loss\.0\.wieght"),
    ],
)
def test_mistakes_in_a_config_raise_an_error(loss, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({"loss": loss}, "test")


@pytest.mark.parametrize("target", losses.LOSSES)
def test_voxels_outside_the_brain_count_nothing(target):
    generator = torch.Generator().manual_seed(0)
    x_0_pred, x_0, source = (torch.randn(1, 1, 24, 24, generator=generator) for _ in range(3))
    region = torch.zeros(1, 1, 24, 24, dtype=torch.uint8)
    region[..., 4:20, 4:20] = 1
    region[..., 8:12, 8:12] = 3
    outside = 3 * (region == 0)

    term = LossConfig(target=target)
    loss = loss_of_images(term, x_0_pred, x_0, source, region)
    assert loss > 0
    assert torch.equal(loss_of_images(term, x_0_pred + outside, x_0, source, region), loss)
    assert torch.equal(loss_of_images(term, x_0_pred, x_0 - outside, source, region), loss)
