"""Sampling from Python: any form of network, every process, and errors for arguments without effect."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import dsdiff
from dsdiff.backbones import UNetModel
from dsdiff.conditioning.condition import ConditioningConfig
from dsdiff.conditioning.network import Conditioner, Network
from dsdiff.diffusion.registry import PROCESSES, build_process
from dsdiff.errors import ConfigError, InputError
from dsdiff.types import Prediction
from tests.toy_data import randomize_zeros

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
C = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
SOURCE = C[:, :1]


class Scale(nn.Module):
    """A network that sees its condition, with dropout that must be off."""

    multiple = 1

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, t, c):
        assert t.dtype == torch.float32
        return self.dropout(self.weight * x + c.mean(1, keepdim=True) / (1 + t[:, None, None, None]))


class JoinedScale(Scale):
    def forward(self, x, t):
        return super().forward(x[:, :1], t, x[:, 1:])


class ConditionScale(Scale):
    def forward(self, x_t, t, cond):
        return Prediction(super().forward(x_t, t, cond.maps()))


def test_networks_of_all_forms_give_the_same_samples():
    networks = [
        Scale(),
        JoinedScale(),
        ConditionScale(),
        Network(ConditionScale(), Conditioner(ConditioningConfig(), 3, 1)),
    ]
    expected = dsdiff.sample(Scale(), C, process="ddpm", steps=3, seed=4)
    for network in networks:
        network.train()
        assert torch.equal(dsdiff.sample(network, C, process="ddpm", steps=3, seed=4), expected)
        assert network.training
        assert all(module.training for module in network.modules())


def test_the_seed_decides_the_noise():
    first, second = (dsdiff.sample(Scale(), C, process="flow", steps=2, seed=seed) for seed in (1, 2))
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    unseeded = dsdiff.sample(Scale(), C, process="flow", steps=2)
    torch.manual_seed(7)
    assert torch.equal(unseeded, dsdiff.sample(Scale(), C, process="flow", steps=2))
    assert not torch.equal(unseeded, dsdiff.sample(Scale(), C, process="flow", steps=2))


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_samples_with_every_sampler(name):
    process = build_process(name, {})
    source = {} if process.from_noise else {"source": SOURCE}
    for sampler in process.samplers:
        images = dsdiff.sample(Scale(), C, process=process, sampler=sampler, **source)
        assert images.shape == (2, 1, 8, 8)
        assert images.isfinite().all()


def test_one_step_of_the_bridge_adds_the_prediction_to_the_source():
    prediction = 0.5 * SOURCE + C.mean(1, keepdim=True) / 1001
    images = dsdiff.sample(Scale(), C, process="bridge", source=SOURCE)
    assert torch.allclose(images, SOURCE + prediction)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"process": "ddpm", "source": SOURCE}, "'ddpm' begins with noise and does not use source; remove it"),
        ({"process": "bridge"}, "'bridge' begins with an image: give it as source"),
        ({"process": "bridge", "source": SOURCE, "seed": 0}, r"'bridge' uses no noise in 1 step\(s\), so no seed"),
        ({"process": "regression", "source": SOURCE, "seed": 0}, "'regression' uses no noise"),
        ({"process": "regression", "source": SOURCE, "steps": 2}, "one step only, not 2"),
        ({"process": "ddpm", "sampler": "dpmpp_2m", "eta": 1.0}, "'dpmpp_2m' of process 'ddpm' does not use eta"),
        ({"process": "flow", "eta": 1.0}, "'euler' of process 'flow' does not use eta"),
        ({"process": "flow", "sampler": "ddim"}, "'ddim' needs a schedule of betas"),
        ({"process": "ddpm", "guidance": 2}, "no option guidance; there are: sampler, spacing, eta, source"),
        ({"process": "ddpm", "steps": 1001}, "1001 steps are more than the 1000 timesteps"),
        ({"process": "ddpm", "sampler": "warp"}, "sampler 'warp' is unknown"),
    ],
)
def test_arguments_without_effect_raise_an_error(arguments, message):
    with pytest.raises(ConfigError, match=message):
        dsdiff.sample(Scale(), C, **arguments)


def test_other_shapes_raise_an_error():
    with pytest.raises(InputError, match=r"condition is \(2, 3, 1, 8, 8\); channels \(b, c, h, w\) are needed"):
        dsdiff.sample(Scale(), C[:, :, None], process="ddpm")
    with pytest.raises(InputError, match=r"source is \(2, 3, 8, 8\); for this condition \(2, 1, 8, 8\) is needed"):
        dsdiff.sample(Scale(), C, process="bridge", source=C)


def test_another_number_of_outputs_raises_an_error():
    network = UNetModel(model_channels=64, channel_mult=[1], num_res_blocks=1, out_channels=2)
    with pytest.raises(ConfigError, match="UNetModel returns 2 channels, process 'ddpm' needs 1"):
        dsdiff.sample(network, C, process="ddpm", steps=2)


def test_q_sample_and_its_target_are_those_of_the_process():
    process = build_process("ddpm", {"prediction": "v", "timesteps": 50})
    x_0, noise, t = C[:, :1], SOURCE.flip(0), torch.tensor([0, 49])
    time = (t + 1) / 50
    assert torch.equal(process.q_sample(x_0, t, noise), process.compute_x_t(x_0, x_0, time, noise))
    assert torch.equal(process.training_target(x_0, t, noise), process.target(x_0, x_0, time, noise))
    assert torch.equal(process.timestep(time), t.float())
    for invalid in (-1, 50):
        with pytest.raises(InputError, match=rf"\[{invalid}, 3\] are not all from 0 to 49"):
            process.q_sample(x_0, torch.tensor([invalid, 3]), noise)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
def test_the_page_for_researchers_runs_and_equals_diffusers(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers warns about its own imports
        import diffusers

        assert diffusers.DDIMScheduler
        torch.manual_seed(0)
        names = {}
        for block in blocks:
            exec(block, names)  # noqa: S102 (our own page)

    assert names["samples"].shape == names["bridge_samples"].shape == (8, 1, 32, 32)
    assert torch.allclose(names["same_samples"], names["x_t"], rtol=1e-4, atol=1e-4)
    assert names["x_t"].std() > 0.1
    assert capsys.readouterr().out.count("[8, 3, 64, 16, 16]") == 2


def test_a_trained_network_samples_what_it_learned():
    torch.manual_seed(0)
    network = UNetModel(in_channels=2, model_channels=64, channel_mult=[1], num_res_blocks=1)
    randomize_zeros(network)
    process = build_process("ddpm", {"prediction": "x_0"})
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    c = torch.randn(16, 1, 8, 8)
    for _ in range(60):
        t, noise = torch.randint(1000, (16,)), torch.randn_like(c)
        loss = (network(process.q_sample(-c, t, noise), t, c) - process.training_target(-c, t, noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = (dsdiff.sample(network, c, process=process, steps=5, seed=0) + c).square().mean()
    assert error < 0.2  # of images with variance 1
