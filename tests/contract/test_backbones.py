"""The contract of every registered backbone."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsdiff.backbones import disc_unet, ds_unet, registry
from dsdiff.conditioning import condition
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.errors import ConfigError, GeometryError
from dsdiff.network_protocols import Backbone
from tests.toy_data import randomize_zeros

# Name -> params of a small network. Add a line for a new backbone.
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
}
CONFIG = ConditioningConfig()
LAYOUT = CONFIG.layout(("t1", "t2", "flair"), 1)

needs_smp = pytest.mark.skipif(
    importlib.util.find_spec("segmentation_models_pytorch") is None, reason="needs the extra smp: make test-smp"
)
# Name -> backbone, and params of the original's structure.
ORIGINALS = {
    "original disc_unet": ("disc_unet", CONV | disc_unet.ORIGINAL_STRUCTURE),
    "original ds_unet": ("ds_unet", CONV | ds_unet.ORIGINAL_STRUCTURE),
}
NAMES = [pytest.param(name, marks=needs_smp) if name == "smp_unet" else name for name in SMALL]


def build(name, **params):
    target, small_params = ORIGINALS.get(name) or (name, SMALL[name])
    torch.manual_seed(0)
    return registry.build(registry.BackboneTarget(target=target, params=small_params | params), LAYOUT)


def build_randomized(name, **params):
    network = build(name, **params).eval()
    randomize_zeros(network)
    return network


def make_inputs(size, b=3):
    generator = torch.Generator().manual_seed(1)
    x_t, sources = torch.randn(b, 1, *size, generator=generator), torch.randn(b, 3, 1, *size, generator=generator)
    t = torch.tensor([10.0, 500.0, 1000.0])[:b]
    return x_t, t, condition.build_condition(CONFIG, sources, torch.ones(b, 3, dtype=torch.bool))


def inputs_for(network, rows=4, columns=4):
    return make_inputs((network.multiple * rows, network.multiple * columns))


def drop_contrast(cond, contrast):
    present = cond.present.clone()
    present[:, contrast] = False
    return condition.build_condition(CONFIG, cond.sources, present)


def test_every_registered_backbone_is_tested():
    assert set(SMALL) == set(registry.BACKBONES)


@pytest.mark.parametrize("name", [*NAMES, *ORIGINALS])
class TestContract:
    @pytest.mark.parametrize(("rows", "columns"), [(2, 4), (3, 4), (6, 5)])
    def test_output_has_the_shape_of_x_t_and_starts_at_zero(self, name, rows, columns):
        network = build(name)
        assert isinstance(network, Backbone)
        inputs = inputs_for(network, rows, columns)
        value = network(*inputs).value
        assert value.shape == inputs[0].shape
        assert value.dtype == torch.float32
        assert not value.any()

    def test_a_size_that_is_not_a_multiple_raises_an_error(self, name):
        network = build(name)
        if network.multiple > 1:
            with pytest.raises(GeometryError, match=f"must be multiples of {network.multiple}"):
                network(*make_inputs((network.multiple * 4, network.multiple * 4 - 1)))

    def test_every_parameter_gets_a_gradient(self, name):
        network = build_randomized(name)
        network(*inputs_for(network)).value.square().mean().backward()
        for parameter_name, parameter in network.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.any(), parameter_name

    def test_samples_of_a_batch_do_not_mix(self, name):
        network = build_randomized(name).train()
        x_t, t, cond = inputs_for(network)
        single_cond = condition.build_condition(CONFIG, cond.sources[1:2], cond.present[1:2])
        value = network(x_t, t, cond).value[1:2]
        assert torch.allclose(network(x_t[1:2], t[1:2], single_cond).value, value, atol=1e-5)

    def test_output_depends_on_time_and_every_source(self, name):
        network = build_randomized(name)
        x_t, t, cond = inputs_for(network)
        value = network(x_t, t, cond).value
        assert not torch.allclose(network(x_t, t * 0.5, cond).value, value, atol=1e-5)
        assert not torch.allclose(network(x_t + 1, t, cond).value, value, atol=1e-5)
        for source in range(3):
            changed = cond.sources.clone()
            changed[:, source] += 1
            changed_cond = condition.build_condition(CONFIG, changed, cond.present)
            assert not torch.allclose(network(x_t, t, changed_cond).value, value, atol=1e-5)

    def test_output_depends_on_present_and_not_on_absent_sources(self, name):
        network = build_randomized(name)
        x_t, t, cond = inputs_for(network)
        value = network(x_t, t, cond).value
        for source in range(3):
            value_without_source = network(x_t, t, drop_contrast(cond, source)).value
            assert value_without_source.isfinite().all()
            assert not torch.allclose(value_without_source, value, atol=1e-5)
            changed = cond.sources.clone()
            changed[:, source] = torch.nan
            changed_cond = drop_contrast(condition.build_condition(CONFIG, changed, cond.present), source)
            assert torch.equal(network(x_t, t, changed_cond).value, value_without_source)

    def test_saved_and_loaded_weights_give_the_same_output(self, name, tmp_path):
        network = build_randomized(name)
        save_file(network.state_dict(), tmp_path / "w.safetensors")
        torch.manual_seed(99)
        loaded = build(name).eval()
        loaded.load_state_dict(load_file(tmp_path / "w.safetensors"))
        inputs = inputs_for(network)
        assert torch.equal(network(*inputs).value, loaded(*inputs).value)

    def test_bf16_is_close_to_fp32(self, name):
        network = build_randomized(name)
        inputs = inputs_for(network)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            bf16 = network(*inputs).value
        fp32 = network(*inputs).value
        assert bf16.dtype == torch.float32
        assert (bf16 - fp32).abs().mean() < 0.03 * fp32.abs().mean() + 1e-3

    def test_checkpointing_gives_the_same_gradients(self, name):
        network, checkpointed = build_randomized(name).train(), build_randomized(name, use_checkpoint=True).train()
        for module in (network, checkpointed):
            module(*inputs_for(module)).value.square().mean().backward()
        pairs = zip(network.named_parameters(), checkpointed.parameters(), strict=True)
        for (parameter_name, parameter), checkpointed_parameter in pairs:
            if parameter.requires_grad:
                assert torch.allclose(parameter.grad, checkpointed_parameter.grad, atol=1e-6), parameter_name

    def test_fused_attention_equals_plain_attention(self, name):
        fused, plain = build_randomized(name), build_randomized(name, fused=False)
        inputs = inputs_for(fused)
        assert torch.allclose(fused(*inputs).value, plain(*inputs).value, atol=1e-5)

    def test_an_unknown_key_raises_an_error(self, name):
        with pytest.raises(ConfigError, match="hidden_sise: there is no such key"):
            build(name, hidden_sise=3)
