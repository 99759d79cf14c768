import pytest
import torch

from dsdiff.backbones import registry
from dsdiff.backbones.ds_unet import Gate
from dsdiff.layers.multi_encoder import mean
from dsdiff.types import Condition, ConditionLayout

LAYOUT = ConditionLayout(("t1", "t2", "flair"))
ORIGIN = {
    "channel_mult": [1, 1, 2, 2, 3, 3], "num_res_blocks": 2, "attention_resolutions": [32, 16, 8], "num_head_channels": 48,
}  # fmt: skip
BIG = {
    "channel_mult": [1, 1, 2, 2, 4, 4], "num_res_blocks": 2, "attention_resolutions": [8, 16], "num_head_channels": 32, "skips": "mean",
}  # fmt: skip
SMALL = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "use_scale_shift_norm": True}


def build(target, **params):
    return registry.build(registry.BackboneTarget(target=target, params=params), LAYOUT)


@pytest.mark.parametrize(
    ("target", "params", "millions"),
    [
        ("disc_unet", {"model_channels": 160, "channel_mult": [1, 2, 4, 4], "attention_resolutions": [16], "num_head_channels": 32}, 272.1),
        ("Disc_diff.guided_diffusion.unet.UNet_disc_Model", {"model_channels": 96, **ORIGIN}, 85.3),
        ("UNet_DS_Diff.model.DSUnetModel", {"model_channels": 320, **ORIGIN, "num_head_channels": 32, "skips": "mean"}, 981.5),
        ("ds_unet", {"model_channels": 128, **BIG}, 223.5),
        ("ds_unet", {"model_channels": 64, **BIG, "attention_resolutions": [16]}, 55.2),
    ],
)  # fmt: skip
def test_the_sizes_of_the_published_recipes(target, params, millions):
    with torch.device("meta"):
        network = build(target, **params)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_the_mean_is_of_the_streams_that_are_there():
    features = torch.randn(2, 3, 4, 2, 2)
    there = torch.tensor([[True, False, True], [False, False, False]])
    found = mean(features, there)
    assert torch.allclose(found[0], (features[0, 0] + features[0, 2]) / 2)
    assert not found[1].any()


def test_a_gate_starts_as_the_mean_and_learns_to_choose():
    gate, features = Gate(4), torch.randn(2, 3, 4, 2, 2)
    there = torch.tensor([[True, True, True], [True, False, True]])
    assert torch.allclose(gate(features, there), mean(features, there), atol=1e-6)
    with torch.no_grad():
        gate.score.weight[0, 0] = 100.0  # a stream with more of channel 0 wins
    features[:, 1, 0] = features[:, :, 0].amax(1) + 1
    assert torch.allclose(gate(features, there)[0], features[0, 1], atol=1e-4)


def test_features_come_stream_by_stream():
    given = (
        torch.randn(2, 1, 8, 8),
        torch.ones(2),
        Condition(torch.randn(2, 3, 1, 8, 8), torch.ones(2, 3, dtype=torch.bool)),
    )
    disc, ds = build("disc_unet", **SMALL), build("ds_unet", **SMALL)
    features = disc(*given).features
    assert features["common"].shape == features["distinct"].shape == (2, 4, 32, 4, 4)
    features = ds(*given).features
    assert {name: f.shape[1] for name, f in features.items()} == {"style": 3, "content": 3, "anatomy": 2, "lesion": 2}
