import pytest
import torch

from dsdiff.backbones import registry
from dsdiff.backbones.ds_unet import Gate
from dsdiff.conditioning.encoder import mean_over_present
from dsdiff.types import Condition, ConditionLayout

LAYOUT = ConditionLayout(("t1", "t2", "flair"))
SIX_LEVELS = {
    "channel_mult": [1, 1, 2, 2, 3, 3],
    "num_res_blocks": 2,
    "attention_resolutions": [32, 16, 8],
    "num_head_channels": 48,
}
LARGE = {
    "channel_mult": [1, 1, 2, 2, 4, 4],
    "num_res_blocks": 2,
    "attention_resolutions": [8, 16],
    "num_head_channels": 32,
    "skips": "mean",
}
FOUR_LEVELS = {"channel_mult": [1, 2, 4, 4], "attention_resolutions": [16], "num_head_channels": 32}
SMALL = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "use_scale_shift_norm": True}


def build(target, **params):
    return registry.build(registry.BackboneTarget(target=target, params=params), LAYOUT)


@pytest.mark.parametrize(
    ("target", "params", "millions"),
    [
        ("disc_unet", {"model_channels": 160, **FOUR_LEVELS}, 272.1),
        ("Disc_diff.guided_diffusion.unet.UNet_disc_Model", {"model_channels": 96, **SIX_LEVELS}, 85.3),
        (
            "UNet_DS_Diff.model.DSUnetModel",
            {"model_channels": 320, **SIX_LEVELS, "num_head_channels": 32, "skips": "mean"},
            981.5,
        ),
        ("ds_unet", {"model_channels": 128, **LARGE}, 223.5),
        ("ds_unet", {"model_channels": 64, **LARGE, "attention_resolutions": [16]}, 55.2),
    ],
)
def test_published_recipes_have_the_expected_number_of_parameters(target, params, millions):
    with torch.device("meta"):
        network = build(target, **params)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    assert n_parameters / 1e6 == pytest.approx(millions, abs=0.06)


def test_mean_over_present_ignores_absent_streams():
    features = torch.randn(2, 3, 4, 2, 2)
    present = torch.tensor([[True, False, True], [False, False, False]])
    mean = mean_over_present(features, present)
    assert torch.allclose(mean[0], (features[0, 0] + features[0, 2]) / 2)
    assert not mean[1].any()


def test_gate_starts_as_the_mean_and_can_choose_one_stream():
    gate, features = Gate(4), torch.randn(2, 3, 4, 2, 2)
    present = torch.tensor([[True, True, True], [True, False, True]])
    assert torch.allclose(gate(features, present), mean_over_present(features, present), atol=1e-6)
    with torch.no_grad():
        gate.score.weight[0, 0] = 100.0  # the stream with most of channel 0 wins
    features[:, 1, 0] = features[:, :, 0].amax(1) + 1
    assert torch.allclose(gate(features, present)[0], features[0, 1], atol=1e-4)


def test_multi_encoder_backbones_return_one_feature_pair():
    x_t, t = torch.randn(2, 1, 8, 8), torch.ones(2)
    cond = Condition(torch.randn(2, 3, 1, 8, 8), torch.tensor([[True, True, True], [True, False, True]]))

    (pair,) = build("disc_unet", **SMALL)(x_t, t, cond).features
    assert pair.shared.shape == pair.specific.shape == (2, 4, 32, 4, 4)
    assert pair.present.tolist() == [[True, True, True, True], [True, True, False, True]]

    (pair,) = build("ds_unet", **SMALL)(x_t, t, cond).features
    assert pair.shared.shape == pair.specific.shape == (2, 3, 64, 4, 4)
    assert torch.equal(pair.present, cond.present)
