import pytest
import torch
from pydantic import ValidationError

from dsdiff.conditioning import disentangle
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.disentangle import Codes, DisentangleConfig, SwapDecoder
from dsdiff.conditioning.network import Conditioner
from dsdiff.errors import ConfigError
from dsdiff.types import Condition, Encoded, Prediction
from tests.conditioning.test_condition import SOURCES, THERE

EMPTY = Prediction(torch.zeros(2, 1, 16, 24))


def features(seed=0, b=2, s=3):
    return torch.randn(b, s, 4, 6, 6, generator=torch.Generator().manual_seed(seed))


def test_common_distinct_is_the_ratio_of_distances():
    shared, specific = torch.ones(1, 2, 4, 2, 2), torch.ones(1, 2, 4, 2, 2)
    shared[0, 1, 0] = -1  # one of four channels: mean square distance 4 / 4
    specific[0, 1, :2] = -1  # two of four: 2
    found = Codes(shared, specific, torch.ones(1, 2, dtype=torch.bool))
    assert disentangle.common_distinct(found, 0.5).item() == pytest.approx(0.5)


def test_between_within_is_zero_for_what_it_asks_and_the_floor_bounds_it():
    anatomy, contrast = torch.randn(2, 1, 4, 6, 6), torch.randn(1, 3, 4, 1, 1)
    perfect = Codes(anatomy.expand(2, 3, 4, 6, 6), contrast.expand(2, 3, 4, 6, 6), THERE)
    assert disentangle.between_within(perfect, 0.1).item() == pytest.approx(0, abs=1e-5)
    same = Codes(*[torch.ones(2, 3, 4, 6, 6)] * 2, THERE)
    assert disentangle.between_within(same, 0.1).item() == pytest.approx(1)  # nothing apart: all of the floor lacks


@pytest.mark.parametrize("term", [disentangle.common_distinct, disentangle.between_within])
def test_no_ratio_is_won_by_inflating_one_side(term):
    shared, specific = features(0), features(1)
    plain = term(Codes(shared, specific, THERE), 0.5)
    assert torch.allclose(term(Codes(shared, 100 * specific, THERE), 0.5), plain, rtol=1e-3)
    assert torch.allclose(term(Codes(shared / 100, specific, THERE), 0.5), plain, rtol=1e-3)
    assert torch.allclose(
        disentangle.cross_covariance(Codes(shared, 9 * specific, THERE)),
        disentangle.cross_covariance(Codes(shared, specific, THERE)),
        atol=1e-5,
    )


def test_what_is_far_enough_is_left_alone_and_what_is_not_is_pushed():
    for scale, pushed in ((1.0, False), (0.05, True)):
        specific = (1 + scale * features(1)).requires_grad_()
        disentangle.common_distinct(Codes(features(0), specific, THERE), 0.5).backward()
        assert bool(specific.grad.abs().max() > 1e-6) == pushed


def test_cross_covariance_of_equal_and_of_independent_channels():
    one = torch.randn(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    there = torch.ones(1, 1, dtype=torch.bool)
    assert disentangle.cross_covariance(Codes(one, 3 * one + 1, there)).item() == pytest.approx(1, abs=1e-3)
    many = torch.ones(1, 1, 1, 400, 400) * torch.tensor([-1.0, 1.0])[torch.arange(400) % 2]
    with torch.autocast("cpu", torch.float16):  # 160,000 products of 1, in a format that ends at 65,504
        assert disentangle.cross_covariance(Codes(many, many, there)).item() == pytest.approx(1, abs=1e-3)
    other = torch.randn(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    assert disentangle.cross_covariance(Codes(one, other, there)).item() < 0.01


@pytest.mark.parametrize("term", ["between_within", "common_distinct", "cross_covariance", "swap"])
def test_nothing_of_an_absent_contrast_counts(term):
    config = ConditioningConfig(encoder="shared", disentangle=({"target": term},))
    torch.manual_seed(0)
    module = Conditioner(config, 3, 3)
    there = torch.tensor([[True, False, True], [True, True, True]])
    spoilt = SOURCES.clone()
    spoilt[0, 1] = 77.0
    one, other = (
        disentangle.total(config.disentangle, module(given, there), EMPTY, module.decoder)
        for given in (SOURCES, spoilt)
    )
    assert torch.equal(one, other)
    assert one.isfinite()


def test_features_of_backbones_count_too():
    cond = Condition(SOURCES, THERE)
    streams = Prediction(EMPTY.value, {"common": features(0, s=4), "distinct": features(1, s=4)})
    heads = Prediction(EMPTY.value, {"content": features(0), "style": features(1), "lesion": features(2, s=2)})
    assert disentangle.codes(cond, streams)[0].there.shape == (2, 4)
    assert len(disentangle.codes(cond, heads)) == 1
    terms = (DisentangleConfig(target="common_distinct", weight=2.0),)
    alone = disentangle.common_distinct(disentangle.codes(cond, heads)[0], 0.5)
    assert torch.allclose(disentangle.total(terms, cond, heads, None), 2 * alone)
    with pytest.raises(ConfigError, match="finds no shared and specific features"):
        disentangle.total(terms, cond, EMPTY, None)
    with pytest.raises(ValidationError, match="encoder is 'none'"):
        ConditioningConfig(disentangle=({"target": "swap"},))


def test_the_decoder_gets_no_anatomy_from_the_specific_maps():
    decoder, shared, specific = SwapDecoder(8, 2), torch.randn(2, 8, 6, 4), torch.randn(2, 8, 6, 4)
    assert decoder(shared, specific).shape == (2, 1, 12, 8)
    assert torch.allclose(decoder(shared, specific.flip(2)), decoder(shared, specific), atol=1e-5)
    assert not torch.allclose(decoder(shared.flip(2), specific), decoder(shared, specific), atol=1e-3)


def test_a_perfect_decoder_has_no_swap_error():
    class Perfect(torch.nn.Module):
        def forward(self, shared, specific):
            return specific[:, :1]

    same = SOURCES[:, :, 1, None]  # b s 1 h w
    cond = Condition(SOURCES, THERE, encoded=Encoded((same,), (same,), (same.mean(1),)))
    assert disentangle.swap_error(Perfect(), cond).item() == 0
