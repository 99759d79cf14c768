"""Options of a training: precision, strategy, averages, and the rejected combinations."""

import pytest
import torch
import yaml

from dsdiff.config.run import dump_config, parse_config, strip_local_paths
from dsdiff.data.batch_sampling import Batch
from dsdiff.errors import ConfigError
from dsdiff.model import checkpoint
from dsdiff.system import distributed
from dsdiff.system.distributed import ProcessGroup
from dsdiff.training import metrics_logger, resume
from dsdiff.training.model_selection import SelectionState
from dsdiff.training.trainer import Trainer
from tests.toy_data import TINY_CONFIG

CPU = torch.device("cpu")


def config(**training):
    return parse_config({**TINY_CONFIG, "training": {**TINY_CONFIG["training"], **training}}, "test")


def make_batch():
    generator = torch.Generator().manual_seed(0)
    target, region = torch.randn(2, 1, 32, 48, generator=generator), torch.ones(2, 1, 32, 48, dtype=torch.uint8)
    sources = torch.randn(2, 3, 3, 32, 48, generator=generator)
    return Batch(sources, target, region, torch.ones(2, 3, dtype=torch.bool), None, ("P0", "P1"))


def train_to(trainer, last_step):
    for step in range(trainer.step, last_step):
        trainer.train_step(make_batch(), torch.Generator().manual_seed(step))
    return trainer


def save_and_restore(trainer, folder):
    resume.save_state(trainer, folder, SelectionState())
    restored = Trainer(trainer.config, CPU)
    resume.restore_state(restored, folder)
    return restored


def assert_same_weights(trainer, other_trainer):
    weights, other_weights = trainer.network.state_dict(), other_trainer.network.state_dict()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def test_a_resume_restores_the_loss_scale_of_fp16(tmp_path):
    trainer = train_to(Trainer(config(precision="fp16"), CPU), 2)
    trainer.scaler.update(1024.0)
    restored = save_and_restore(trainer, tmp_path)
    assert checkpoint.read_state(tmp_path / resume.STATE_FILE)[1]["scaler"]["scale"] == 1024.0
    assert (restored.scaler.get_scale(), restored.step) == (1024.0, 2)
    assert_same_weights(train_to(trainer, 4), train_to(restored, 4))


def test_a_resume_gives_moments_the_strides_of_their_weights(tmp_path, monkeypatch):
    """As on CUDA, whose fused optimizer rejects moments with other strides."""

    def use_channels_last(trainer):
        trainer.network.to(memory_format=torch.channels_last)

    monkeypatch.setattr(Trainer, "_move_to_device", use_channels_last)
    trainer = train_to(Trainer(config(), CPU), 2)
    restored = save_and_restore(trainer, tmp_path)
    for parameter, state in restored.optimizer.state.items():
        assert parameter.stride() == state["exp_avg"].stride() == state["exp_avg_sq"].stride()
    assert any(parameter.ndim == 4 for parameter in restored.optimizer.state)
    assert_same_weights(train_to(trainer, 4), train_to(restored, 4))


def test_dropout_depends_only_on_the_generator_and_the_part():
    params = {**TINY_CONFIG["backbone"]["params"], "dropout": 0.5}
    config_with_dropout = parse_config({**TINY_CONFIG, "backbone": {"target": "unet", "params": params}}, "test")
    trainers = []
    for seed in (0, 1):
        trainer = Trainer(config_with_dropout, CPU)
        torch.manual_seed(seed)  # without effect
        trainers.append(train_to(trainer, 2))
    assert_same_weights(*trainers)


@pytest.mark.parametrize(
    ("strategy", "size", "message"),
    [
        ("single", 2, "strategy is single, but there are 2 processes"),
        ("ddp", 1, "strategy ddp needs torchrun"),
        ("fsdp", 1, "strategy fsdp needs torchrun"),
    ],
)
def test_strategies_that_do_not_fit_the_processes_are_rejected(strategy, size, message):
    with pytest.raises(ConfigError, match=message):
        distributed.wrap(torch.nn.Linear(1, 1), strategy, ProcessGroup(CPU, 0, size))


def test_compilation_on_a_cpu_and_a_missing_tensorboard_are_rejected(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"training\.compile needs CUDA"):
        Trainer(config(compile=True), CPU)
    monkeypatch.setattr(metrics_logger, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'dsdiff-mri\[tensorboard\]'"):
        metrics_logger.open_tensorboard(tmp_path, 0)


@pytest.mark.parametrize(("value", "decays"), [(0.99, (0.99,)), ([0.9, 0.99], (0.9, 0.99))])
def test_one_decay_is_written_as_a_number_and_several_as_a_list(value, decays):
    settings = config(ema=value)
    values = yaml.safe_load(dump_config(settings))
    assert settings.training.ema == decays
    assert values["training"]["ema"] == value
    assert parse_config(values, "again") == settings


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"ema": [0.9, 0.9]}, "lists a decay twice"),
        ({"ema": []}, "ema"),
        ({"select_by": "psnr"}, "select_by 'psnr' scores volumes: set validate_volumes"),
        ({"strategy": "horovod"}, "strategy"),
    ],
)
def test_mistakes_are_reported(training, message):
    with pytest.raises(ConfigError, match=message):
        config(**training)


def test_the_config_of_a_model_folder_holds_no_local_path():
    assert strip_local_paths(config(init_from="runs/old/model")).training.init_from is None
