"""A network that is asked tells how wrong it expects to be, and its T1ce is none the worse for it."""

import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.data import dataset
from dsdiff.data.dataloader import Batches
from dsdiff.errors import ConfigError
from dsdiff.io import cases
from dsdiff.training import losses
from dsdiff.training.trainer import Trainer
from tests.toy_data import TINY, write_case

CPU = torch.device("cpu")


def config(process: str, spread: bool, channels: int):
    backbone = {"target": "unet", "params": TINY["backbone"]["params"] | {"out_channels": channels}}
    return configs.parse(
        TINY | {"backbone": backbone, "process": {"target": process, "params": {"predict_error": spread}}}, "test"
    )


def test_surprise_is_least_where_the_mean_error_is_expected_and_does_not_move_the_image():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 1, 64, 64, generator=generator)
    made = torch.zeros_like(truth, requires_grad=True)
    mean = truth.abs().mean()
    costs = {
        factor: losses.surprise(made, truth, factor * mean * torch.ones_like(truth)).mean()
        for factor in (0.7, 1.0, 1.4)
    }
    assert costs[1.0] < min(costs[0.7], costs[1.4])
    expected = torch.ones(1, 1, 64, 64, requires_grad=True)
    losses.surprise(made, truth, expected).mean().backward()
    assert made.grad is None and expected.grad is not None


@pytest.mark.parametrize("process", ["bridge", "regression"])
def test_a_network_learns_where_it_errs(tmp_path, process):
    (case,) = cases.discover(write_case(tmp_path, "P0"))
    patients = [dataset.load(case, ("t1", "t2", "flair"), "t1ce")]
    trainer = Trainer(config(process, spread=True, channels=2), CPU)
    batch = Batches(trainer.config.data, 0, 2, patients).at(0)
    time, noise = torch.ones(2), torch.zeros(2, 1, 32, 48)

    def expected() -> torch.Tensor:
        cond = trainer.network.condition(batch.sources, batch.present)
        with torch.no_grad():
            return trainer.process.expected_error(
                trainer.network(batch.sources[:, 0, 1, None], time * 1000, cond).value
            )

    assert torch.equal(expected(), torch.ones(2, 1, 32, 48))
    optimizer = torch.optim.Adam(trainer.network.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss, made = trainer.objective(batch, time, noise)
        loss.backward()
        optimizer.step()
    brain, error = batch.region > 0, (made.detach() - batch.target).abs()
    wrong = error > error[brain].median()
    assert expected()[brain & wrong].mean() > 1.05 * expected()[brain & ~wrong].mean()


def test_the_loss_of_validation_knows_nothing_of_it(tmp_path):
    (case,) = cases.discover(write_case(tmp_path, "P0"))
    patients = [dataset.load(case, ("t1", "t2", "flair"), "t1ce")]
    trainers = [Trainer(config("bridge", spread, channels), CPU) for spread, channels in ((False, 1), (True, 2))]
    batch = Batches(trainers[0].config.data, 0, 2, patients).at(0)
    found = []
    for trainer in trainers:
        trainer.network.eval()
        found.append(trainer.objective(batch, torch.ones(2), torch.zeros(2, 1, 32, 48))[0].item())
    assert found[0] == found[1]  # both networks begin at zero


@pytest.mark.parametrize(("spread", "channels"), [(True, 1), (False, 2)])
def test_channels_that_do_not_fit_are_refused(spread, channels):
    with pytest.raises(ConfigError, match=f"gives {channels} channels"):
        config("bridge", spread, channels).build_network()
