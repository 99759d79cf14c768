"""Every backbone can be traced as a graph with dynamic batch size and sides; the graph equals the network."""

import logging

import jaxtyping
import pytest
import torch

from dsdiff.config.run import parse_config
from dsdiff.errors import ModelError
from dsdiff.runtimes import graphs
from tests.contract.test_backbones import NAMES, SMALL
from tests.toy_data import randomize_zeros

ONE_LEVEL = {"channel_mult": [1], "num_res_blocks": 1, "attention_resolutions": []}  # tracing is slow
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
CONDITIONING = {
    "unet": {"encoder": "shared", "encoder_params": {"scales": 1}, "style": "linear"},
    "dit": {"edges": "laplacian", "fusion": "spade"},
    "hybrid": {"edges": "learned", "fusion": "spade"},
}
SIZES = ((1, 1, 1), (3, 2, 5), (2, 8, 8))  # batch, height and width in multiples


@pytest.fixture(autouse=True)
def without_type_checks_and_logs(monkeypatch):
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)  # pytest would collect its messages
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a size is a symbol while it is traced


def make_network(name, conditioning):
    params = SMALL[name] | SMALLER.get(name, {})
    if "model_channels" in params:
        params["model_channels"] = 64  # 32 groups of one channel, in an image of one pixel, have no norm
    values = {
        "data": {"context_slices": 3, "crop": [32, 32]},
        "conditioning": conditioning,
        "backbone": {"target": name, "params": params},
    }
    network = parse_config(values, "test").build_network()
    randomize_zeros(network)
    if conditioning.get("style"):
        network.conditioner.average_style.copy_(torch.tensor([0.5, 0.2, -0.3, 0.1]))
    return network.eval()


def run_graph(graph, *tensors):
    outputs = graph.program.module(check_guards=False)(*tensors)
    return dict(zip(graph.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_graphs_equal_the_network_at_any_size(name):
    network = make_network(name, CONDITIONING.get(name, {"edges": "sobel"}))
    traced = graphs.trace_graphs(network, 3, 3)
    for batch_size, rows, columns in SIZES:
        shape = network.multiple * rows, network.multiple * columns
        generator = torch.Generator().manual_seed(batch_size)
        x_t = torch.randn(batch_size, 1, *shape, generator=generator)
        t = 1000 * torch.rand(batch_size, generator=generator)
        sources = torch.randn(batch_size, 3, 3, *shape, generator=generator)
        present = torch.ones(batch_size, 3, dtype=torch.bool)
        sources[0, 2], present[0, 2] = torch.nan, False

        cond = network.condition(sources, present)
        condition_outputs = run_graph(traced[graphs.CONDITION], sources, present)
        for key, tensor in graphs.added_tensors(cond).items():
            assert torch.equal(condition_outputs[key].nan_to_num(), tensor.nan_to_num()), key

        tensors = graphs.condition_to_tensors(cond).values()
        prediction = run_graph(traced[graphs.DENOISE], x_t, t, *tensors)["value"]
        expected = network(x_t, t, cond).value
        assert expected.any()
        assert torch.allclose(prediction, expected, atol=1e-5 * expected.abs().max().item())


def test_a_network_that_cannot_be_traced_is_rejected_by_name():
    class DataDependentNetwork(torch.nn.Module):
        multiple = 1

        def forward(self, x_t, t, cond):
            return x_t if t.sum() > 0 else -x_t

    network = make_network("unet", {})
    network.backbone = DataDependentNetwork()
    with pytest.raises(ModelError, match="DataDependentNetwork cannot be traced"):
        graphs.trace_graphs(network, 3, 3)
