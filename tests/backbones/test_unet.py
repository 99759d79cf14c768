import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from dsdiff.backbones import registry
from dsdiff.errors import ConfigError
from dsdiff.layers.basic import timestep_embedding
from dsdiff.layers.unet_blocks import AttentionBlock, ConvParams
from dsdiff.types import Condition, ConditionLayout
from tests.toy_data import wake

ALIAS = "ldm.modules.diffusionmodules.openaimodel.UNetModel"


LAYOUT = ConditionLayout(("t1", "t2", "flair"))


def build(target="unet", **params):
    return registry.build(registry.BackboneTarget(target=target, params=params), LAYOUT)


def test_the_sizes_that_the_field_prints():
    # DESIGN.md: 64, [1, 2, 4], 3 blocks is the 18.7 M UNet
    with torch.device("meta"):
        network = build(
            model_channels=64, channel_mult=[1, 2, 4], num_res_blocks=3, attention_resolutions=[16], target=ALIAS
        )
        big = build(
            model_channels=96,
            channel_mult=[1, 1, 2, 2, 3, 3],
            num_res_blocks=2,
            attention_resolutions=[32, 16, 8],
            num_head_channels=48,
            in_channels=4,
        )
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(18.7, abs=0.1)
    assert sum(p.numel() for p in big.parameters()) / 1e6 == pytest.approx(45.1, abs=0.2)


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
def test_every_option_runs(params):
    network = build(model_channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_resolutions=[2], **params)
    wake(network)
    cond = Condition(torch.randn(2, 3, 1, 16, 24), torch.ones(2, 3, dtype=torch.bool))
    value = network(torch.randn(2, 1, 16, 24), torch.tensor([0.0, 1000.0]), cond).value
    assert value.shape == (2, 1, 16, 24)
    assert value.std() > 0


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_agrees_with_the_formula(new_order):
    torch.manual_seed(0)
    params = ConvParams(num_heads=4, use_new_attention_order=new_order)
    block, heads, e = AttentionBlock(64, params), 4, 16
    wake(block)
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


def test_timestep_embedding_by_hand():
    found = timestep_embedding(torch.tensor([0.0, 2.0]), 4)
    assert torch.allclose(found[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert torch.allclose(found[1], torch.tensor([math.cos(2), math.cos(0.02), math.sin(2), math.sin(0.02)]))
    assert timestep_embedding(torch.ones(1), 5).shape == (1, 5)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"model_chanels": 64}, "model_chanels"),
        ({"model_channels": 40}, "multiple of 32"),
        ({"attention_resolutions": [1], "num_heads": 5}, "64 channels do not divide by 5 heads"),
        ({"num_head_channels": 48}, "512 channels do not divide into heads of 48"),
        ({"num_heads": -1}, "num_heads or num_head_channels is needed"),
        ({"num_res_blocks": [2, 2]}, r"num_res_blocks \(2, 2\) must be one number or 4"),
        ({"use_spatial_transformer": True}, "use_spatial_transformer"),
        ({"in_channels": 7}, "in_channels is 7, but x_t and the condition make 4"),
    ],
)
def test_nonsense_is_refused_with_a_reason(params, says):
    with pytest.raises(ConfigError, match=says):
        build(**params)


def test_only_registered_names_are_looked_up():
    with pytest.raises(ConfigError, match=r"backbone 'os\.system' is unknown; there are: disc_unet.*--allow-code"):
        build(target="os.system")


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_runs_on_a_fused_kernel(new_order):
    params = ConvParams(num_heads=4, use_new_attention_order=new_order)
    block, x = AttentionBlock(64, params), torch.randn(2, 64, 4, 6)
    wake(block)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # any other is an error
        fused = block(x)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.allclose(block(x), fused, atol=1e-5)


@pytest.mark.parametrize("target", ["unet", "disc_unet", "ds_unet", "hybrid"])
def test_the_first_level_may_have_a_width_of_its_own(target):
    network = build(target, model_channels=64, channel_mult=[0.5, 1], num_res_blocks=1, use_scale_shift_norm=True)
    wake(network)
    cond = Condition(torch.randn(2, 3, 1, 16, 16), torch.ones(2, 3, dtype=torch.bool))
    assert network(x_t=torch.randn(2, 1, 16, 16), t=torch.ones(2), cond=cond).value.std() > 0
    with pytest.raises(ConfigError, match=r"makes levels of \[48\] channels"):
        build(target, model_channels=64, channel_mult=[1, 0.75])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_precision_run(dtype):
    network = build(model_channels=64, channel_mult=[1], num_res_blocks=1).to(dtype)
    wake(network)
    cond = Condition(torch.randn(2, 3, 1, 8, 8, dtype=dtype), torch.ones(2, 3, dtype=torch.bool))
    assert network(torch.randn(2, 1, 8, 8, dtype=dtype), torch.ones(2), cond).value.isfinite().all()
