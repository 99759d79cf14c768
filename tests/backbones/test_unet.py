import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from dsdiff.backbones import registry
from dsdiff.errors import ConfigError
from dsdiff.layers.primitives import timestep_embedding
from dsdiff.layers.unet_blocks import AttentionBlock
from dsdiff.layers.unet_params import UNetParams
from dsdiff.types import Condition, ConditionLayout
from tests.toy_data import randomize_zeros

ALIAS = "ldm.modules.diffusionmodules.openaimodel.UNetModel"


LAYOUT = ConditionLayout(("t1", "t2", "flair"))


def build(target="unet", **params):
    return registry.build(registry.BackboneTarget(target=target, params=params), LAYOUT)


def test_published_configs_have_the_expected_number_of_parameters():
    with torch.device("meta"):
        small = build(
            model_channels=64, channel_mult=[1, 2, 4], num_res_blocks=3, attention_resolutions=[16], target=ALIAS
        )
        large = build(
            model_channels=96,
            channel_mult=[1, 1, 2, 2, 3, 3],
            num_res_blocks=2,
            attention_resolutions=[32, 16, 8],
            num_head_channels=48,
            in_channels=4,
        )
    assert sum(p.numel() for p in small.parameters()) / 1e6 == pytest.approx(18.7, abs=0.1)
    assert sum(p.numel() for p in large.parameters()) / 1e6 == pytest.approx(45.1, abs=0.2)


@pytest.mark.parametrize(
    "params",
    [
        {"use_scale_shift_norm": True},
        {"resblock_updown": True},
        {"conv_resample": False},
        {"stem": 2},
        {"num_head_channels": 16, "use_new_attention_order": True},
        {"dropout": 0.1},
    ],
)
def test_every_unet_option_runs(params):
    network = build(model_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[2], **params)
    randomize_zeros(network)
    cond = Condition(torch.randn(2, 3, 1, 16, 24), torch.ones(2, 3, dtype=torch.bool))
    value = network(torch.randn(2, 1, 16, 24), torch.tensor([0.0, 1000.0]), cond).value
    assert value.shape == (2, 1, 16, 24)
    assert value.std() > 0


@pytest.mark.parametrize(
    ("target", "params"),
    [
        ("disc_unet", {"head_activation": "silu"}),
        ("disc_unet", {"distinct_features": "excited"}),
        ("ds_unet", {"head_type": "residual"}),
        ("ds_unet", {"excitation": "separate", "excitation_bias": False}),
        ("ds_unet", {"middle": "noisy"}),
        ("ds_unet", {"middle": "noisy", "head_type": "residual", "skips": "gated", "stem": 2}),
    ],
)
def test_every_disentangled_option_changes_the_output(target, params):
    torch.manual_seed(0)
    small = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1}
    network, default_network = build(target, **small, **params), build(target, **small)
    for module in (network, default_network):
        randomize_zeros(module)
    cond = Condition(torch.randn(2, 3, 1, 16, 24), torch.tensor([[True, True, False], [True, True, True]]))
    x_t, t = torch.randn(2, 1, 16, 24), torch.tensor([0.0, 1000.0])

    prediction = network(x_t, t, cond)
    assert prediction.value.shape == (2, 1, 16, 24)
    assert prediction.value.std() > 0
    assert not torch.equal(prediction.value, default_network(x_t, t, cond).value)
    assert prediction.features[0].shared.shape == prediction.features[0].specific.shape


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_block_agrees_with_the_formula(new_order):
    torch.manual_seed(0)
    params = UNetParams(num_heads=4, use_new_attention_order=new_order)
    block, heads, e = AttentionBlock(64, params), 4, 16
    randomize_zeros(block)
    x = torch.randn(2, 64, 3, 5)
    qkv = block.qkv(block.norm(x.flatten(2)))
    out = torch.zeros(2, 64, 15)
    for head in range(heads):
        starts = [part * 64 + head * e if new_order else head * 3 * e + part * e for part in range(3)]
        q, k, v = (qkv[:, start : start + e] for start in starts)
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(e), -1)
        out[:, head * e : (head + 1) * e] = v @ weights.transpose(1, 2)
    expected = x + block.proj_out(out).reshape(x.shape)
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_timestep_embedding_matches_hand_computed_values():
    embedding = timestep_embedding(torch.tensor([0.0, 2.0]), 4)
    assert torch.allclose(embedding[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert torch.allclose(embedding[1], torch.tensor([math.cos(2), math.cos(0.02), math.sin(2), math.sin(0.02)]))
    assert timestep_embedding(torch.ones(1), 5).shape == (1, 5)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model_chanels": 64}, "model_chanels"),
        ({"model_channels": 40}, "multiple of 32"),
        ({"attention_resolutions": [1], "num_heads": 5}, "64 channels do not divide by 5 heads"),
        ({"num_head_channels": 48}, "512 channels do not divide into heads of 48"),
        ({"num_heads": -1}, "num_heads or num_head_channels is needed"),
        ({"num_res_blocks": [2, 2]}, r"num_res_blocks \(2, 2\) must be one number or 4"),
        ({"use_spatial_transformer": True}, "use_spatial_transformer"),
        ({"in_channels": 7}, "in_channels is 7, but x_t and the condition have 4"),
    ],
)
def test_invalid_params_raise_an_error(params, message):
    with pytest.raises(ConfigError, match=message):
        build(**params)


def test_an_unregistered_name_raises_an_error():
    with pytest.raises(ConfigError, match=r"backbone 'os\.system' is unknown; there are: disc_unet.*--allow-code"):
        build(target="os.system")


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_block_runs_on_a_fused_kernel(new_order):
    params = UNetParams(num_heads=4, use_new_attention_order=new_order)
    block, x = AttentionBlock(64, params), torch.randn(2, 64, 4, 6)
    randomize_zeros(block)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # another kernel raises an error
        fused = block(x)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.allclose(block(x), fused, atol=1e-5)


@pytest.mark.parametrize("target", ["unet", "disc_unet", "ds_unet", "hybrid"])
def test_the_first_level_can_be_narrower_than_model_channels(target):
    network = build(target, model_channels=64, channel_mult=[0.5, 1], num_res_blocks=1, use_scale_shift_norm=True)
    randomize_zeros(network)
    cond = Condition(torch.randn(2, 3, 1, 16, 16), torch.ones(2, 3, dtype=torch.bool))
    assert network(x_t=torch.randn(2, 1, 16, 16), t=torch.ones(2), cond=cond).value.std() > 0
    with pytest.raises(ConfigError, match=r"makes levels of \[48\] channels"):
        build(target, model_channels=64, channel_mult=[1, 0.75])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_other_dtypes_run(dtype):
    network = build(model_channels=64, channel_mult=[1], num_res_blocks=1).to(dtype)
    randomize_zeros(network)
    cond = Condition(torch.randn(2, 3, 1, 8, 8, dtype=dtype), torch.ones(2, 3, dtype=torch.bool))
    assert network(torch.randn(2, 1, 8, 8, dtype=dtype), torch.ones(2), cond).value.isfinite().all()
