"""Every backbone becomes a graph whose batch and sides are dynamic, and which is the network still."""

import logging

import jaxtyping
import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.errors import ModelError
from dsdiff.runtimes import graphs
from tests.contract.test_backbones import NAMES, SMALL
from tests.toy_data import wake

ONE_LEVEL = {"channel_mult": [1], "num_res_blocks": 1, "attention_resolutions": []}  # tracing takes its time
ONE_BLOCK = {"depth": 1}
SMALLER = {
    "unet": {"attention_resolutions": []},
    "disc_unet": ONE_LEVEL,
    "ds_unet": ONE_LEVEL,
    "transformer": ONE_BLOCK,
    "dit": ONE_BLOCK,
    "hybrid": ONE_LEVEL | ONE_BLOCK,
    "resnet_attention": {"num_res_blocks": 1},
}
GUIDED = {
    "unet": {"encoder": "shared", "encoder_params": {"scales": 1}, "style": "linear"},
    "dit": {"edges": "laplacian", "fusion": "spade"},
    "hybrid": {"edges": "learned", "fusion": "spade"},
}


@pytest.fixture(autouse=True)
def untyped_and_silent(monkeypatch):
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # pytest would collect all it says
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # while it is traced a size is a symbol, no int


def awake(name, conditioning):
    params = SMALL[name] | SMALLER.get(name, {})
    if "model_channels" in params:
        params["model_channels"] = 64  # of one pixel alone, 32 groups of one channel have no norm
    network = configs.parse(
        {
            "data": {"context_slices": 3, "crop": [32, 32]},
            "conditioning": conditioning,
            "backbone": {"target": name, "params": params},
        },
        "test",
    ).build_network()
    wake(network)
    if conditioning.get("style"):
        network.conditioner.average_style.copy_(torch.tensor([0.5, 0.2, -0.3, 0.1]))
    return network.eval()


def run(graph, *args):
    answer = graph.program.module(check_guards=False)(*args)
    return dict(zip(graph.outputs, answer if isinstance(answer, tuple) else (answer,), strict=True))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_graphs_are_the_network_whatever_the_shape(name):
    network = awake(name, GUIDED.get(name, {"edges": "sobel"}))
    traced = graphs.trace(network, 3, 3)
    for b, down, across in ((1, 1, 1), (3, 2, 5), (2, 8, 8)):
        size = network.multiple * down, network.multiple * across
        generator = torch.Generator().manual_seed(b)
        x_t, t = torch.randn(b, 1, *size, generator=generator), 1000 * torch.rand(b, generator=generator)
        sources, present = torch.randn(b, 3, 3, *size, generator=generator), torch.ones(b, 3, dtype=torch.bool)
        sources[0, 2], present[0, 2] = torch.nan, False
        cond = network.condition(sources, present)
        made = run(traced[graphs.CONDITION], sources, present)
        for key, tensor in graphs.added(cond).items():
            assert torch.equal(made[key].nan_to_num(), tensor.nan_to_num()), key
        value = run(traced[graphs.DENOISE], x_t, t, *graphs.flat(cond).values())["value"]
        wanted = network(x_t, t, cond).value
        assert wanted.any()
        assert torch.allclose(value, wanted, atol=1e-5 * wanted.abs().max().item())


def test_a_network_that_cannot_be_traced_is_refused_by_its_name():
    class Fickle(torch.nn.Module):
        multiple = 1

        def forward(self, x_t, t, cond):
            return x_t if t.sum() > 0 else -x_t

    network = awake("unet", {})
    network.backbone = Fickle()
    with pytest.raises(ModelError, match="Fickle cannot be traced"):
        graphs.trace(network, 3, 3)
