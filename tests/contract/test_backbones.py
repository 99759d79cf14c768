"""What every registered backbone promises."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsdiff.backbones import registry
from dsdiff.conditioning import condition
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.errors import ConfigError, GeometryError
from dsdiff.types import Backbone
from tests.toy_data import wake

# name -> params of a size for tests; a new backbone adds its line here
CONV = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2]}
TOKENS = {"image_size": 32, "patch_size": 4, "hidden_size": 32, "depth": 2, "num_heads": 4}
SMALL = {
    "unet": CONV,
    "disc_unet": CONV,
    "ds_unet": CONV,
    "transformer": TOKENS,
    "vit": {**TOKENS, "depth": 3, "long_skips": True},
    "dit": TOKENS,
    "hybrid": {**CONV, "image_size": 16, "hidden_size": 32, "depth": 2, "transformer_heads": 4},
    "resnet_attention": {"model_channels": 64, "num_res_blocks": 2, "attention_every": 1, "stem": 2},
    "smp_unet": {"encoder_name": "resnet18", "decoder_channels": [64, 32, 32, 16, 16]},
}  # fmt: skip
CONFIG = ConditioningConfig()
LAYOUT = CONFIG.layout(("t1", "t2", "flair"), 1)

here = pytest.mark.skipif(
    importlib.util.find_spec("segmentation_models_pytorch") is None, reason="needs the extra smp: make test-smp"
)
NAMES = [pytest.param(name, marks=here) if name == "smp_unet" else name for name in SMALL]


def build(name, **params):
    torch.manual_seed(0)
    return registry.build(registry.BackboneTarget(target=name, params=SMALL[name] | params), LAYOUT)


def awake(name, **params):
    network = build(name, **params).eval()
    wake(network)
    return network


def batch(size, b=3):
    generator = torch.Generator().manual_seed(1)
    x_t, sources = torch.randn(b, 1, *size, generator=generator), torch.randn(b, 3, 1, *size, generator=generator)
    t = torch.tensor([10.0, 500.0, 1000.0])[:b]
    return x_t, t, condition.build(CONFIG, sources, torch.ones(b, 3, dtype=torch.bool))


def sized(network, down=4, across=4):
    return batch((network.multiple * down, network.multiple * across))


def without(cond, contrast):
    present = cond.present.clone()
    present[:, contrast] = False
    return condition.build(CONFIG, cond.sources, present)


def test_every_registered_backbone_is_tested():
    assert set(SMALL) == set(registry.BACKBONES)


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    @pytest.mark.parametrize(("down", "across"), [(2, 4), (3, 4), (6, 5)])
    def test_shape_kept_and_start_is_zero(self, name, down, across):
        network = build(name)
        assert isinstance(network, Backbone)
        given = sized(network, down, across)
        value = network(*given).value
        assert value.shape == given[0].shape
        assert value.dtype == torch.float32
        assert not value.any()

    def test_a_size_that_is_no_multiple_is_refused(self, name):
        network = build(name)
        if network.multiple > 1:
            with pytest.raises(GeometryError, match=f"must be multiples of {network.multiple}"):
                network(*batch((network.multiple * 4, network.multiple * 4 - 1)))

    def test_every_parameter_gets_a_gradient(self, name):
        network = awake(name)
        network(*sized(network)).value.square().mean().backward()
        silent = [n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert not silent

    def test_samples_do_not_mix(self, name):
        network = awake(name).train()
        x_t, t, cond = sized(network)
        alone = condition.build(CONFIG, cond.sources[1:2], cond.present[1:2])
        together = network(x_t, t, cond).value[1:2]
        assert torch.allclose(network(x_t[1:2], t[1:2], alone).value, together, atol=1e-5)

    def test_time_and_every_source_are_heeded(self, name):
        network = awake(name)
        x_t, t, cond = sized(network)
        value = network(x_t, t, cond).value
        assert not torch.allclose(network(x_t, t * 0.5, cond).value, value, atol=1e-5)
        assert not torch.allclose(network(x_t + 1, t, cond).value, value, atol=1e-5)
        for source in range(3):
            changed = cond.sources.clone()
            changed[:, source] += 1
            other = condition.build(CONFIG, changed, cond.present)
            assert not torch.allclose(network(x_t, t, other).value, value, atol=1e-5)

    def test_present_is_heeded_and_an_absent_source_is_not(self, name):
        network = awake(name)
        x_t, t, cond = sized(network)
        value = network(x_t, t, cond).value
        for source in range(3):
            absent = network(x_t, t, without(cond, source)).value
            assert absent.isfinite().all()
            assert not torch.allclose(absent, value, atol=1e-5)
            changed = cond.sources.clone()
            changed[:, source] = torch.nan  # whatever stands there
            other = without(condition.build(CONFIG, changed, cond.present), source)
            assert torch.equal(network(x_t, t, other).value, absent)

    def test_saves_and_loads_alike(self, name, tmp_path):
        network = awake(name)
        save_file(network.state_dict(), tmp_path / "w.safetensors")
        torch.manual_seed(99)
        other = registry.build(registry.BackboneTarget(target=name, params=SMALL[name]), LAYOUT).eval()
        other.load_state_dict(load_file(tmp_path / "w.safetensors"))
        given = sized(network)
        assert torch.equal(network(*given).value, other(*given).value)

    def test_bf16_is_close_to_fp32(self, name):
        network = awake(name)
        given = sized(network)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            low = network(*given).value
        high = network(*given).value
        assert low.dtype == torch.float32
        assert (low - high).abs().mean() < 0.03 * high.abs().mean() + 1e-3

    def test_checkpointing_gives_the_same_gradients(self, name):
        kept, again = awake(name).train(), awake(name, use_checkpoint=True).train()
        for network in (kept, again):
            network(*sized(network)).value.square().mean().backward()
        for (n, p), q in zip(kept.named_parameters(), again.parameters(), strict=True):
            if p.requires_grad:
                assert torch.allclose(p.grad, q.grad, atol=1e-6), n

    def test_fused_attention_is_the_plain_one(self, name):
        fused, plain = awake(name), awake(name, fused=False)
        given = sized(fused)
        assert torch.allclose(fused(*given).value, plain(*given).value, atol=1e-5)

    def test_an_unknown_key_is_refused(self, name):
        with pytest.raises(ConfigError, match="hidden_sise: there is no such key"):
            build(name, hidden_sise=3)
