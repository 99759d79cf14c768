"""Time of a training step, which converts a time budget into a number of steps. It is measured once and cached."""

import re
from pathlib import Path

import numpy as np
import torch

from dsdiff.config.run import RunConfig
from dsdiff.data.assemble_cohort import TrainingData
from dsdiff.data.dataset import InMemorySlices, TrainingPatient
from dsdiff.errors import ConfigError
from dsdiff.profiling.subprocess import run_in_subprocess
from dsdiff.system import json_cache
from dsdiff.system.device import resolve_device, select_clock
from dsdiff.training import loop

SECONDS_PER_UNIT = {"s": 1.0, "min": 60.0, "h": 3600.0}
TIMED_STEPS = 6  # after one step that warms up


def parse_budget(text: str) -> float:
    """Parse a time budget.

    Args:
        text: A positive number and a unit, such as 90s, 20min or 1.5h.

    Returns:
        Seconds.

    Raises:
        ConfigError: The text is anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)", text.strip())
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"budget '{text}' is not a time; give seconds, minutes or hours, such as 90s, 20min or 1.5h")
    return float(match[1]) * SECONDS_PER_UNIT[match[2]]


def measure_seconds_per_step(config: RunConfig, device: str) -> float:
    """Measure the time of a training step on one patient of noise.

    Args:
        config: A resolved config.
        device: auto, cpu, cuda or mps.

    Returns:
        Mean seconds of a step: CPU seconds on the CPU, wall-clock seconds on a GPU.
    """
    data = config.data
    trainer = loop.Trainer(config, resolve_device(device), resumes=True)
    generator = torch.Generator().manual_seed(0)
    images = np.random.default_rng(0).standard_normal((len(data.contrasts) + 1, 9, *data.crop)).astype(np.float16)
    patient = TrainingPatient.from_slices("noise", InMemorySlices(images, np.ones(images.shape[1:], np.uint8)))
    batches = loop.training_batches(config, TrainingData([patient]))

    clock = select_clock(trainer.device)
    trainer.train_step(batches.load_step(0), generator)
    start = clock()
    for step in range(1, TIMED_STEPS + 1):
        trainer.train_step(batches.load_step(step), generator)
    return (clock() - start) / TIMED_STEPS


def cached_seconds_per_step(config: RunConfig, key: str, device: str, file: Path) -> float:
    """Measure the time of a training step in its own process, or read it from the cache.

    Args:
        config: A resolved config.
        key: Key of the candidate; each kind of device has its own entry.
        device: auto, cpu, cuda or mps.
        file: JSON file of the cache.

    Returns:
        Seconds, see `measure_seconds_per_step`.
    """

    def measure() -> float:
        return run_in_subprocess(measure_seconds_per_step, config, device)

    return float(json_cache.cached(file, device_key(key, device), measure))


def device_key(key: str, device: str) -> str:
    """Build the cache key of a measurement on a kind of device.

    Args:
        key: Key of the candidate.
        device: auto, cpu, cuda or mps.

    Returns:
        The key itself on the CPU, else "KEY on DEVICE".
    """
    device_type = resolve_device(device).type
    return key if device_type == "cpu" else f"{key} on {device_type}"
