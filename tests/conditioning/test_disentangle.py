import pytest
import torch
from pydantic import ValidationError

from dsdiff.conditioning import disentangle
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.disentangle import DisentangleConfig, SwapDecoder
from dsdiff.conditioning.network import Conditioner
from dsdiff.errors import ConfigError
from dsdiff.types import Condition, EncoderFeatures, FeaturePair, Prediction
from tests.conditioning.test_condition import ALL_PRESENT, SOURCES

WITHOUT_FEATURES = Prediction(torch.zeros(2, 1, 16, 24))


def random_features(seed=0, b=2, s=3):
    return torch.randn(b, s, 4, 6, 6, generator=torch.Generator().manual_seed(seed))


def random_pair():
    return FeaturePair(random_features(0), random_features(1), ALL_PRESENT)


def test_common_distinct_is_the_ratio_of_distances():
    shared, specific = torch.ones(1, 2, 4, 2, 2), torch.ones(1, 2, 4, 2, 2)
    shared[0, 1, 0] = -1  # one of four channels differs by 2: mean square distance 4 / 4
    specific[0, 1, :2] = -1  # two of four: 2
    pair = FeaturePair(shared, specific, torch.ones(1, 2, dtype=torch.bool))
    assert disentangle.common_distinct_loss(pair, 0.5).item() == pytest.approx(0.5)


def test_between_within_is_zero_for_disentangled_features():
    anatomy, contrast = torch.randn(2, 1, 4, 6, 6), torch.randn(1, 3, 4, 1, 1)
    pair = FeaturePair(anatomy.expand(2, 3, 4, 6, 6), contrast.expand(2, 3, 4, 6, 6), ALL_PRESENT)
    assert disentangle.between_within_loss(pair, 0.1).item() == pytest.approx(0, abs=1e-5)


def test_between_within_of_equal_features_is_one():
    ones = torch.ones(2, 3, 4, 6, 6)
    pair = FeaturePair(ones, ones, ALL_PRESENT)
    assert disentangle.between_within_loss(pair, 0.1).item() == pytest.approx(1)  # the whole floor is missing


@pytest.mark.parametrize("loss", [disentangle.common_distinct_loss, disentangle.between_within_loss])
def test_scaling_one_side_does_not_change_a_ratio(loss):
    pair = random_pair()
    expected = loss(pair, 0.5)
    assert torch.allclose(loss(FeaturePair(pair.shared, 100 * pair.specific, ALL_PRESENT), 0.5), expected, rtol=1e-3)
    assert torch.allclose(loss(FeaturePair(pair.shared / 100, pair.specific, ALL_PRESENT), 0.5), expected, rtol=1e-3)


def test_scaling_one_side_does_not_change_the_cross_covariance():
    pair = random_pair()
    scaled = FeaturePair(pair.shared, 9 * pair.specific, ALL_PRESENT)
    expected = disentangle.cross_covariance_loss(pair)
    assert torch.allclose(disentangle.cross_covariance_loss(scaled), expected, atol=1e-5)


@pytest.mark.parametrize(("scale", "is_pushed"), [(1.0, False), (0.05, True)])
def test_specific_features_are_pushed_apart_up_to_the_floor(scale, is_pushed):
    specific = (1 + scale * random_features(1)).requires_grad_()
    disentangle.common_distinct_loss(FeaturePair(random_features(0), specific, ALL_PRESENT), 0.5).backward()
    assert bool(specific.grad.abs().max() > 1e-6) == is_pushed


def test_cross_covariance_is_one_for_equal_and_zero_for_independent_channels():
    x, y = (torch.randn(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    present = torch.ones(1, 1, dtype=torch.bool)
    assert disentangle.cross_covariance_loss(FeaturePair(x, 3 * x + 1, present)).item() == pytest.approx(1, abs=1e-3)
    assert disentangle.cross_covariance_loss(FeaturePair(x, y, present)).item() < 0.01


def test_cross_covariance_does_not_overflow_in_fp16():
    x = torch.ones(1, 1, 1, 400, 400) * torch.tensor([-1.0, 1.0])[torch.arange(400) % 2]
    pair = FeaturePair(x, x, torch.ones(1, 1, dtype=torch.bool))
    with torch.autocast("cpu", torch.float16):  # it sums 160,000 products of 1; fp16 ends at 65,504
        assert disentangle.cross_covariance_loss(pair).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("target", ["between_within", "common_distinct", "cross_covariance", "swap"])
def test_an_absent_contrast_does_not_change_the_loss(target):
    config = ConditioningConfig(encoder="shared", disentangle=({"target": target},))
    torch.manual_seed(0)
    module = Conditioner(config, 3, 3)
    present = torch.tensor([[True, False, True], [True, True, True]])
    changed_sources = SOURCES.clone()
    changed_sources[0, 1] = 77.0

    losses = []
    for sources in (SOURCES, changed_sources):
        cond = module(sources, present)
        loss = disentangle.weighted_disentangle_loss(config.disentangle, cond, WITHOUT_FEATURES, module.decoder)
        losses.append(loss)
    assert torch.equal(*losses)
    assert losses[0].isfinite()


def test_feature_pairs_of_the_backbone_enter_the_loss():
    cond, pair = Condition(SOURCES, ALL_PRESENT), random_pair()
    prediction = Prediction(WITHOUT_FEATURES.value, (pair,))
    assert disentangle.feature_pairs(cond, prediction) == [pair]
    terms = (DisentangleConfig(target="common_distinct", weight=2.0),)
    loss = disentangle.weighted_disentangle_loss(terms, cond, prediction, None)
    assert torch.allclose(loss, 2 * disentangle.common_distinct_loss(pair, 0.5))


def test_a_loss_without_features_raises_an_error():
    terms = (DisentangleConfig(target="common_distinct"),)
    with pytest.raises(ConfigError, match="needs shared and specific features, and there are none"):
        disentangle.weighted_disentangle_loss(terms, Condition(SOURCES, ALL_PRESENT), WITHOUT_FEATURES, None)
    with pytest.raises(ValidationError, match="encoder is 'none'"):
        ConditioningConfig(disentangle=({"target": "swap"},))


def test_the_swap_decoder_gets_no_anatomy_from_specific_features():
    decoder, shared, specific = SwapDecoder(8, 2), torch.randn(2, 8, 6, 4), torch.randn(2, 8, 6, 4)
    assert decoder(shared, specific).shape == (2, 1, 12, 8)
    assert torch.allclose(decoder(shared, specific.flip(2)), decoder(shared, specific), atol=1e-5)
    assert not torch.allclose(decoder(shared.flip(2), specific), decoder(shared, specific), atol=1e-3)


def test_a_perfect_decoder_has_no_swap_loss():
    class CopySpecific(torch.nn.Module):
        def forward(self, shared, specific):
            return specific[:, :1]

    images = SOURCES[:, :, 1, None]  # b s 1 h w
    features = EncoderFeatures((images,), (images,), (images.mean(1),))
    cond = Condition(SOURCES, ALL_PRESENT, encoder_features=features)
    assert disentangle.swap_loss(CopySpecific(), cond).item() == 0
