"""A network that predicts its error learns where it errs, and its T1ce does not change."""

import pytest
import torch

from dsdiff.config.run import parse_config
from dsdiff.data import preparation
from dsdiff.data.dataloader import TrainingBatches
from dsdiff.errors import ConfigError
from dsdiff.io.cases import discover_cases
from dsdiff.training import losses
from dsdiff.training.trainer import Trainer
from tests.toy_data import TINY_CONFIG, write_case

CPU = torch.device("cpu")


def config(process: str, predict_error: bool, channels: int):
    backbone = {"target": "unet", "params": TINY_CONFIG["backbone"]["params"] | {"out_channels": channels}}
    return parse_config(
        TINY_CONFIG
        | {"backbone": backbone, "process": {"target": process, "params": {"predict_error": predict_error}}},
        "test",
    )


@pytest.fixture
def patients(tmp_path):
    (case,) = discover_cases(write_case(tmp_path, "P0"))
    return [preparation.load_patient(case, ("t1", "t2", "flair"), "t1ce")]


def test_the_likelihood_is_best_at_the_mean_error_and_has_no_gradient_of_the_image():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 1, 64, 64, generator=generator)
    image = torch.zeros_like(truth, requires_grad=True)
    mean_error = truth.abs().mean()
    nll = {
        factor: losses.laplace_nll(image, truth, factor * mean_error * torch.ones_like(truth)).mean()
        for factor in (0.7, 1.0, 1.4)
    }
    assert nll[1.0] < min(nll[0.7], nll[1.4])

    predicted_error = torch.ones(1, 1, 64, 64, requires_grad=True)
    losses.laplace_nll(image, truth, predicted_error).mean().backward()
    assert image.grad is None
    assert predicted_error.grad is not None


@pytest.mark.parametrize("process", ["bridge", "regression"])
def test_a_network_learns_where_it_errs(patients, process):
    trainer = Trainer(config(process, predict_error=True, channels=2), CPU)
    batch = TrainingBatches(trainer.config.data, 0, 2, patients).load_step(0)
    time, noise = torch.ones(2), torch.zeros(2, 1, 32, 48)

    @torch.no_grad()
    def predict_error() -> torch.Tensor:
        cond = trainer.network.condition(batch.sources, batch.present)
        output = trainer.network(batch.sources[:, 0, 1, None], time * 1000, cond)
        return trainer.process.decode_error(output.value)

    assert torch.equal(predict_error(), torch.ones(2, 1, 32, 48))

    optimizer = torch.optim.Adam(trainer.network.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss, x_0 = trainer.loss_module(batch, time, noise)
        loss.backward()
        optimizer.step()

    brain, error = batch.region > 0, (x_0.detach() - batch.target).abs()
    is_large = error > error[brain].median()
    predicted_error = predict_error()
    assert predicted_error[brain & is_large].mean() > 1.05 * predicted_error[brain & ~is_large].mean()


def test_the_validation_loss_does_not_count_the_predicted_error(patients):
    losses_by_channels = {}
    for predict_error, channels in ((False, 1), (True, 2)):
        trainer = Trainer(config("bridge", predict_error, channels), CPU)
        batch = TrainingBatches(trainer.config.data, 0, 2, patients).load_step(0)
        trainer.network.eval()
        loss, _ = trainer.loss_module(batch, torch.ones(2), torch.zeros(2, 1, 32, 48))
        losses_by_channels[channels] = loss.item()
    assert losses_by_channels[1] == losses_by_channels[2]  # both networks start at zero


@pytest.mark.parametrize(("predict_error", "channels"), [(True, 1), (False, 2)])
def test_output_channels_that_do_not_fit_the_process_are_rejected(predict_error, channels):
    with pytest.raises(ConfigError, match=f"returns {channels} channels"):
        config("bridge", predict_error, channels).build_network()
