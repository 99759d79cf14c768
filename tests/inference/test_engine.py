"""Engines: which one is chosen, and that all of them agree."""

import numpy as np
import pytest
import torch
from torch import nn

from dsdiff.backbones.external import ExternalBackbone
from dsdiff.conditioning.network import Network
from dsdiff.config.run import parse_config
from dsdiff.errors import ConfigError
from dsdiff.inference.engine import build_engine
from dsdiff.inference.model import Model
from dsdiff.inference.pipeline import Pipeline, SynthesisResult
from dsdiff.layers import primitives
from dsdiff.network_protocols import ConditionalNetwork
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, TINY_CONFIG, make_patient, randomize_zeros

CPU = torch.device("cpu")
UNET = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2]}
TRANSFORMER = {"image_size": 48, "patch_size": 4, "hidden_size": 32, "depth": 2, "num_heads": 4}
BACKBONES = {
    "unet": {**UNET, "use_scale_shift_norm": True},
    "disc_unet": UNET,
    "ds_unet": UNET,
    "transformer": TRANSFORMER,
    "vit": {**TRANSFORMER, "depth": 3, "long_skips": True},
    "dit": TRANSFORMER,
    "hybrid": {**UNET, "image_size": 48, "hidden_size": 32, "depth": 2, "transformer_heads": 4},
    "resnet_attention": {"model_channels": 64, "num_res_blocks": 2, "attention_every": 1, "stem": 2},
}
UNET_BACKBONE = {"target": "unet", "params": UNET}


@pytest.fixture(autouse=True)
def bf16(monkeypatch):
    """Every machine computes bf16 if asked to, if slowly."""
    monkeypatch.setattr("dsdiff.system.device.has_bf16", lambda device: True)


def make_volumes(slices: slice = slice(9, 13)) -> dict[str, Volume]:
    arrays = {name: array[:, :, slices] for name, array in make_patient().items() if name in ("t1", "t2", "flair")}
    return {name: Volume(array, LPS_AFFINE) for name, array in arrays.items()}


def make_model(backbone: dict, engine: str, **config_parts: dict) -> Model:
    config = parse_config({**TINY_CONFIG, **config_parts, "backbone": backbone}, "tiny")
    torch.manual_seed(3)
    network = config.build_network().eval()
    randomize_zeros(network)
    return Model("tiny", "0", config, network, config.build_process(), config.build_sampler(), CPU, engine)


def synthesize(backbone: dict, engine: str, **config_parts: dict) -> SynthesisResult:
    return Pipeline(make_model(backbone, engine, **config_parts)).synthesize_volumes(make_volumes())


def brain_psnr(result: SynthesisResult, reference: SynthesisResult) -> float:
    brain = reference.case.brain
    error = np.square(result.z[brain] - reference.z[brain]).mean()
    return 10 * np.log10(np.ptp(reference.z[brain]) ** 2 / error)


@pytest.mark.parametrize("name", BACKBONES)
def test_fast_engine_agrees_with_the_reference(name):
    backbone = {"target": name, "params": BACKBONES[name]}
    psnr = brain_psnr(synthesize(backbone, "fast"), synthesize(backbone, "eager"))
    assert psnr > 45
    assert psnr < 90  # it does compute in bf16


@pytest.mark.parametrize(
    "conditioning",
    [{"encoder": "shared", "fusion": "spade"}, {"style": "linear", "edges": "learned"}, {"edges": "canny"}],
)
def test_fast_engine_agrees_for_every_kind_of_condition(conditioning):
    result, reference = (synthesize(UNET_BACKBONE, engine, conditioning=conditioning) for engine in ("fast", "eager"))
    assert brain_psnr(result, reference) > 45


def test_fast_engine_leaves_the_trained_network_as_it_is():
    model = make_model(UNET_BACKBONE, "fast")
    assert {p.dtype for p in model.engine.network.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert model.engine.label == "fast: bf16, channels_last on cpu"


def test_fast_engine_equals_the_reference_without_bf16(monkeypatch):
    monkeypatch.setattr("dsdiff.system.device.has_bf16", lambda device: False)
    assert make_model(UNET_BACKBONE, "fast").engine.label == "fast: fp32, channels_last on cpu"
    assert np.allclose(synthesize(UNET_BACKBONE, "fast").z, synthesize(UNET_BACKBONE, "eager").z, atol=1e-4)


def test_network_and_engine_are_conditional_networks():
    model = make_model(UNET_BACKBONE, "fast")
    assert isinstance(model.network, ConditionalNetwork)
    assert isinstance(model.engine, ConditionalNetwork)
    assert model.engine.multiple == model.network.multiple


class ExternalNetwork(nn.Module):
    """A network of another package, with a layer that works only in float32."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(10, 1, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x, t):
        assert self.scale.dtype == torch.float32
        return self.layer(x)


def test_external_layers_keep_their_weights_and_run_under_autocast():
    conditioner = make_model(UNET_BACKBONE, "eager").network.conditioner
    network = Network(ExternalBackbone(ExternalNetwork(), 4), conditioner)
    engine = build_engine("auto", network, CPU)
    assert (engine.autocast, engine.precision) == (True, "bf16")

    cond = engine.condition(torch.randn(1, 3, 3, 8, 8), torch.ones(1, 3, dtype=torch.bool))
    assert engine(torch.randn(1, 1, 8, 8), torch.ones(1), cond).value.dtype == torch.float32


def test_unknown_engine_is_refused():
    with pytest.raises(ConfigError, match=r"engine 'warp' is unknown; available are auto, eager, fast"):
        make_model(UNET_BACKBONE, "warp").engine  # noqa: B018


@pytest.mark.parametrize("shape", [(2, 64, 6, 5), (1, 32, 40, 33)])
def test_group_norm_equals_that_of_torch_in_either_layout(shape):
    x = torch.randn(shape)
    norm = primitives.normalization(shape[1])
    nn.init.normal_(norm.weight)
    reference = nn.functional.group_norm(x, 32, norm.weight, norm.bias)
    assert torch.allclose(norm(x.to(memory_format=torch.channels_last)), reference, atol=1e-5)


@pytest.mark.parametrize("max_scores", [1, 100, 1 << 20])
def test_chunked_attention_equals_attention(monkeypatch, max_scores):
    monkeypatch.setattr(primitives, "MAX_ATTENTION_SCORES", max_scores)
    q, k, v = torch.randn(3, 2, 4, 17, 8)
    exact = nn.functional.scaled_dot_product_attention(q, k, v)
    with torch.inference_mode():
        chunked = primitives.attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), True)
    assert (chunked.float() - exact).norm() < 0.01 * exact.norm()
