"""A training budget in time, and the steps that it buys: timed once on noise, written down, and then kept."""

import re
from pathlib import Path

import numpy as np
import torch

from dsdiff.comparison import json_cache
from dsdiff.config.run import RunConfig
from dsdiff.data.dataset import Cohort, InMemory, Patient
from dsdiff.errors import ConfigError
from dsdiff.profiling.subprocess import apart
from dsdiff.system import device as devices
from dsdiff.training import loop

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
TIMED = 6  # steps, after one that warms up


def parse(text: str) -> float:
    """Seconds of a budget such as 90s, 20min or 1.5h. Raises `ConfigError` for anything else, and for nothing."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text.strip())
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"budget '{text}' is no time; give seconds, minutes or hours, as 90s, 20min or 1.5h")
    return float(found[1]) * UNITS[found[2]]


def seconds_per_step(config: RunConfig, device: str) -> float:
    """Seconds of one training step on a patient of noise: of the CPU where it computes, of the clock on a GPU."""
    trainer, data = loop.Trainer(config, devices.pick(device), begun=True), config.data
    generator = torch.Generator().manual_seed(0)
    images = np.random.default_rng(0).standard_normal((len(data.contrasts) + 1, 9, *data.crop)).astype(np.float16)
    noise = [Patient.of("noise", InMemory(images, np.ones(images.shape[1:], np.uint8)))]
    drawn = loop.draws(config, Cohort(noise))
    clock = devices.clock(trainer.device)
    for step in range(TIMED + 1):
        if step == 1:
            since = clock()
        trainer.train_step(drawn.at(step), generator)
    return (clock() - since) / TIMED


def calibrated(config: RunConfig, key: str, device: str, file: Path) -> float:
    """`seconds_per_step` in a process of its own, kept under this key for each kind of device."""
    return float(json_cache.once(file, on(key, device), lambda: apart(seconds_per_step, config, device)))


def on(key: str, device: str) -> str:
    """The key of what is measured on a kind of device."""
    kind = devices.pick(device).type
    return key if kind == "cpu" else f"{key} on {kind}"
