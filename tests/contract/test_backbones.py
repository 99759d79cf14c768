"""What every registered backbone promises."""

import pytest
import torch
from conftest import wake
from safetensors.torch import load_file, save_file

from dsdiff.backbones import registry
from dsdiff.conditioning import condition
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.types import Backbone

# name -> params of a size for tests; a new backbone adds its line here
SMALL = {
    "unet": {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2]},
}  # fmt: skip
CONFIG = ConditioningConfig()
CHANNELS = CONFIG.channels(3, 1)


def build(name):
    torch.manual_seed(0)
    return registry.build(registry.Target(target=name, params=SMALL[name]), CHANNELS)


def batch(size, b=3):
    generator = torch.Generator().manual_seed(1)
    x_t, sources = torch.randn(b, 1, *size, generator=generator), torch.randn(b, 3, 1, *size, generator=generator)
    t = torch.tensor([10.0, 500.0, 1000.0])[:b]
    return x_t, t, condition.build(CONFIG, sources, torch.ones(b, 3, dtype=torch.bool))


def test_every_registered_backbone_is_tested():
    assert set(SMALL) == set(registry.BACKBONES)


@pytest.mark.parametrize("name", SMALL)
class TestContract:
    def test_shape_kept_and_start_is_zero(self, name):
        network = build(name)
        assert isinstance(network, Backbone)
        for factor in (2, 3):
            size = (network.multiple * factor, network.multiple * 4)
            value = network(*batch(size)).value
            assert value.shape == (3, 1, *size)
            assert value.dtype == torch.float32
            assert not value.any()

    def test_every_parameter_gets_a_gradient(self, name):
        network = build(name)
        wake(network)
        network(*batch((network.multiple * 4,) * 2)).value.square().mean().backward()
        assert all(p.grad is not None and p.grad.any() for p in network.parameters())

    def test_samples_do_not_mix(self, name):
        network = build(name).eval()
        wake(network)
        x_t, t, cond = batch((network.multiple * 4,) * 2)
        alone = condition.build(CONFIG, cond.sources[1:2], cond.present[1:2])
        together = network(x_t, t, cond).value[1:2]
        assert torch.allclose(network(x_t[1:2], t[1:2], alone).value, together, atol=1e-5)

    def test_time_and_every_source_are_heeded(self, name):
        network = build(name).eval()
        wake(network)
        x_t, t, cond = batch((network.multiple * 4,) * 2)
        value = network(x_t, t, cond).value
        assert not torch.allclose(network(x_t, t * 0.5, cond).value, value, atol=1e-5)
        for source in range(3):
            changed = cond.sources.clone()
            changed[:, source] += 1
            other = condition.build(CONFIG, changed, cond.present)
            assert not torch.allclose(network(x_t, t, other).value, value, atol=1e-5)

    def test_saves_and_loads_alike(self, name, tmp_path):
        network = build(name).eval()
        wake(network)
        save_file(network.state_dict(), tmp_path / "w.safetensors")
        torch.manual_seed(99)
        other = registry.build(registry.Target(target=name, params=SMALL[name]), CHANNELS).eval()
        other.load_state_dict(load_file(tmp_path / "w.safetensors"))
        given = batch((network.multiple * 4,) * 2)
        assert torch.equal(network(*given).value, other(*given).value)

    def test_bf16_is_close_to_fp32(self, name):
        network = build(name).eval()
        wake(network)
        given = batch((network.multiple * 4,) * 2)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            low = network(*given).value
        high = network(*given).value
        assert (low - high).abs().mean() < 0.03 * high.abs().mean() + 1e-3
