"""Engines: which is chosen, and that all of them say the same."""

import numpy as np
import pytest
import torch
from torch import nn

from dsdiff.backbones.external import Concatenated
from dsdiff.conditioning.network import Network
from dsdiff.config import run as configs
from dsdiff.errors import ConfigError
from dsdiff.inference import engine as engines
from dsdiff.inference import model as models
from dsdiff.inference.pipeline import run
from dsdiff.layers import basic
from dsdiff.system import device as devices
from dsdiff.volume import Volume
from tests.toy_data import LPS, TINY, patient, wake

CPU = torch.device("cpu")
CONV = {"model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [2]}
TOKENS = {"image_size": 48, "patch_size": 4, "hidden_size": 32, "depth": 2, "num_heads": 4}
BACKBONES = {
    "unet": {**CONV, "use_scale_shift_norm": True}, "disc_unet": CONV, "ds_unet": CONV, "transformer": TOKENS,
    "vit": {**TOKENS, "depth": 3, "long_skips": True}, "dit": TOKENS,
    "hybrid": {**CONV, "image_size": 48, "hidden_size": 32, "depth": 2, "transformer_heads": 4},
    "resnet_attention": {"model_channels": 64, "num_res_blocks": 2, "attention_every": 1, "stem": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def bf16(monkeypatch):
    """Every machine computes bf16 when it is told to, if slowly."""
    monkeypatch.setattr(devices, "has_bf16", lambda device: True)


def volumes(slices=slice(9, 13)):
    cut = {name: array[:, :, slices] for name, array in patient().items() if name in ("t1", "t2", "flair")}
    return {name: Volume(array, LPS) for name, array in cut.items()}


def model_of(block, engine, **parts):
    config = configs.parse({**TINY, **parts, "backbone": block}, "tiny")
    torch.manual_seed(3)
    network = config.build_network().eval()
    wake(network)
    return models.Model("tiny", "0", config, network, config.build_process(), config.build_sampler(), CPU, engine)


def psnr(one, reference):
    """In the brain, dB."""
    brain = reference.prepared.brain
    error = np.square(one.z[brain] - reference.z[brain]).mean()
    return 10 * np.log10(np.ptp(reference.z[brain]) ** 2 / error)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_fast_engine_agrees_with_the_reference(name):
    block = {"target": name, "params": BACKBONES[name]}
    reference, fast = (run(volumes(), model_of(block, engine)) for engine in ("eager", "fast"))
    assert psnr(fast, reference) > 45
    assert psnr(fast, reference) < 90  # bf16 indeed


@pytest.mark.parametrize(
    "conditioning",
    [{"encoder": "shared", "fusion": "spade"}, {"style": "linear", "edges": "learned"}, {"edges": "canny"}],
)
def test_so_it_does_with_every_kind_of_condition(conditioning):
    block = {"target": "unet", "params": CONV}
    reference, fast = (
        run(volumes(), model_of(block, engine, conditioning=conditioning)) for engine in ("eager", "fast")
    )
    assert psnr(fast, reference) > 45


def test_the_reference_stays_as_it_was_trained():
    model = model_of({"target": "unet", "params": CONV}, "fast")
    assert {p.dtype for p in model.engine.network.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert model.engine.says == "fast: bf16, channels_last on cpu"


def test_without_bf16_the_fast_engine_gives_what_the_reference_gives(monkeypatch):
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    block = {"target": "unet", "params": CONV}
    reference, fast = model_of(block, "eager"), model_of(block, "fast")
    assert fast.engine.says == "fast: fp32, channels_last on cpu"
    assert np.allclose(run(volumes(), fast).z, run(volumes(), reference).z, atol=1e-4)


class Theirs(nn.Module):
    """A network that insists on float32 somewhere, as others may."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(10, 1, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x, t):
        assert self.scale.dtype == torch.float32
        return self.layer(x)


def test_somebody_elses_layers_keep_their_weights_and_are_computed_under_autocast():
    network = Network(
        Concatenated(Theirs(), 4), model_of({"target": "unet", "params": CONV}, "eager").network.conditioner
    )
    engine = engines.build("auto", network, CPU)
    assert (engine.autocast, engine.precision) == (True, "bf16")
    cond = engine.condition(torch.randn(1, 3, 3, 8, 8), torch.ones(1, 3, dtype=torch.bool))
    assert engine(torch.randn(1, 1, 8, 8), torch.ones(1), cond).dtype == torch.float32


def test_an_unknown_engine_is_refused():
    with pytest.raises(ConfigError, match=r"engine 'warp' is unknown; there are: auto, eager, fast"):
        model_of({"target": "unet", "params": CONV}, "warp").engine  # noqa: B018


@pytest.mark.parametrize("shape", [(2, 64, 6, 5), (1, 32, 40, 33)])
def test_group_norm_is_torchs_in_either_layout(shape):
    x = torch.randn(shape)
    norm = basic.normalization(shape[1])
    nn.init.normal_(norm.weight)
    plain = nn.functional.group_norm(x, 32, norm.weight, norm.bias)
    assert torch.allclose(norm(x.to(memory_format=torch.channels_last)), plain, atol=1e-5)


@pytest.mark.parametrize("scores", [1, 100, 1 << 20])
def test_attention_in_parts_is_attention(monkeypatch, scores):
    monkeypatch.setattr(basic, "SCORES", scores)
    q, k, v = torch.randn(3, 2, 4, 17, 8)
    exact = nn.functional.scaled_dot_product_attention(q, k, v)
    with torch.inference_mode():
        parts = basic.attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), True)
    assert (parts.float() - exact).norm() < 0.01 * exact.norm()
