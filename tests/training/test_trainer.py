"""Options of a training: precision, strategy, averages, and what is refused."""

import pytest
import torch
import yaml
from rich.console import Console

from dsdiff.config import run as configs
from dsdiff.data.batch_sampling import Batch
from dsdiff.errors import ConfigError
from dsdiff.model import checkpoint
from dsdiff.system import distributed
from dsdiff.system.distributed import World
from dsdiff.training import metrics_logger, resume
from dsdiff.training.trainer import Trainer
from tests.toy_data import TINY

CPU = torch.device("cpu")


def config(**training):
    return configs.parse({**TINY, "training": {**TINY["training"], **training}}, "test")


def batch():
    generator = torch.Generator().manual_seed(0)
    target, region = torch.randn(2, 1, 32, 48, generator=generator), torch.ones(2, 1, 32, 48, dtype=torch.uint8)
    sources = torch.randn(2, 3, 3, 32, 48, generator=generator)
    return Batch(sources, target, region, torch.ones(2, 3, dtype=torch.bool), None, ("P0", "P1"))


def stepped(trainer, steps):
    for step in range(trainer.step, steps):
        trainer.train_step(batch(), torch.Generator().manual_seed(step))
    return trainer


def test_fp16_scales_the_loss_and_a_resume_takes_up_the_scale(tmp_path):
    settings = config(precision="fp16")
    trainer = stepped(Trainer(settings, CPU), 2)
    trainer.scaler.update(1024.0)
    resume.save(trainer, tmp_path, {})
    assert checkpoint.read_state(tmp_path / resume.STATE)[1]["scaler.scale"] == 1024.0
    resumed = Trainer(settings, CPU)
    resume.resume(resumed, tmp_path, Console(quiet=True))
    assert (resumed.scaler.get_scale(), resumed.step) == (1024.0, 2)
    stepped(trainer, 4), stepped(resumed, 4)
    a, b = (one.network.state_dict() for one in (trainer, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_resume_lays_moments_out_as_their_weights(tmp_path, monkeypatch):
    """As on CUDA, whose fused optimiser refuses moments of other strides than the weights'."""

    def channels_last(trainer):
        trainer.network.to(memory_format=torch.channels_last)

    monkeypatch.setattr(Trainer, "_place", channels_last)
    trainer = stepped(Trainer(config(), CPU), 2)
    resume.save(trainer, tmp_path, {})
    resumed = Trainer(config(), CPU)
    resume.resume(resumed, tmp_path, Console(quiet=True))
    strides = [
        (p.stride(), of["exp_avg"].stride(), of["exp_avg_sq"].stride()) for p, of in resumed.optimizer.state.items()
    ]
    assert any(len(of_weights) == 4 for of_weights, *_ in strides)
    assert all(of_weights == first == second for of_weights, first, second in strides)
    stepped(trainer, 4), stepped(resumed, 4)
    a, b = (one.network.state_dict() for one in (trainer, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_dropout_follows_from_the_generator_and_the_part_alone():
    params = {**TINY["backbone"]["params"], "dropout": 0.5}
    dropping = configs.parse({**TINY, "backbone": {"target": "unet", "params": params}}, "test")
    ends = []
    for seed in (0, 1):
        trainer = Trainer(dropping, CPU)
        torch.manual_seed(seed)  # of no consequence
        ends.append(torch.cat([p.detach().flatten() for p in stepped(trainer, 2).network.parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("strategy", "size", "says"),
    [
        ("single", 2, "strategy is single, but there are 2 processes"),
        ("ddp", 1, "strategy ddp needs torchrun"),
        ("fsdp", 1, "strategy fsdp needs torchrun"),
    ],
)
def test_strategies_that_do_not_fit_are_refused(strategy, size, says):
    with pytest.raises(ConfigError, match=says):
        distributed.wrap(torch.nn.Linear(1, 1), strategy, World(CPU, 0, size))


def test_compiling_on_a_cpu_and_an_absent_tensorboard_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"training\.compile is for CUDA"):
        Trainer(config(compile=True), CPU)
    monkeypatch.setattr(metrics_logger, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'dsdiff-mri\[tensorboard\]'"):
        metrics_logger.writer(tmp_path, 0)


def test_averages_are_written_as_they_are_read():
    for given, held in ((0.99, (0.99,)), ([0.9, 0.99], (0.9, 0.99))):
        made = config(ema=given)
        assert made.training.ema == held
        assert yaml.safe_load(configs.dump(made))["training"]["ema"] == given
        assert configs.parse(yaml.safe_load(configs.dump(made)), "again") == made


@pytest.mark.parametrize(
    ("training", "says"),
    [
        ({"ema": [0.9, 0.9]}, "names a decay twice"),
        ({"ema": []}, "ema"),
        ({"select_by": "psnr"}, "judge 'psnr' is a score of volumes: set validate_volumes"),
        ({"strategy": "horovod"}, "strategy"),
    ],
)
def test_mistakes_are_named(training, says):
    with pytest.raises(ConfigError, match=says):
        config(**training)


def test_a_model_folder_does_not_name_where_it_began():
    assert configs.portable(config(init_from="runs/old/model")).training.init_from is None
