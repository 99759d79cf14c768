"""Memory of a training, and the batch size that fits into a given memory.

bytes = parameters x (weight, gradient, two moments, averages, autocast's copy)
      + slices per forward pass x ACTIVATION_PEAK_FACTOR x activations of one slice, which the backward pass needs

Under FSDP2 all but autocast's copy is divided among the processes. docs/training.md compares estimates with
measurements.
"""

import math
import re
from dataclasses import dataclass

from dsdiff.config.run import RunConfig
from dsdiff.errors import ConfigError
from dsdiff.profiling import cost

BYTES_PER_UNIT = {"GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20}
USABLE_FRACTION = 0.9  # the rest is lost between blocks and to the workspace of convolutions
AUTOCAST_COPY_BYTES = 2  # per parameter
ACTIVATION_PEAK_FACTOR = 1.5  # for gradients in flight and the workspace of convolutions; measured (docs/training.md)


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated memory of a training.

    Attributes:
        fixed_bytes: Bytes that do not depend on the batch size.
        bytes_per_slice: Bytes for each slice of one forward pass.
    """

    fixed_bytes: float
    bytes_per_slice: float

    def total_bytes(self, n_slices: int) -> float:
        """Compute the memory for a number of slices.

        Args:
            n_slices: Slices of one forward pass.

        Returns:
            Bytes.
        """
        return self.fixed_bytes + self.bytes_per_slice * n_slices


@dataclass(frozen=True)
class BatchFit:
    """Settings of a training that fits into memory.

    Attributes:
        batch_size: Value for `training.batch_size`.
        accumulate: Value for `training.accumulate`.
        lr: Value for `training.lr`.
        max_slices: Largest number of slices of one forward pass that fits.
        max_slices_lr: Learning rate for a batch of `max_slices`.
    """

    batch_size: int
    accumulate: int
    lr: float
    max_slices: int
    max_slices_lr: float


def estimate_memory(
    config: RunConfig, counts: cost.CountedCost, half_precision: bool, processes: int = 1
) -> MemoryEstimate:
    """Estimate the memory of a training in one process.

    Args:
        config: A resolved config.
        counts: Counted cost of one slice of the training size.
        half_precision: Train in bf16 or fp16 instead of fp32.
        processes: Number of processes.

    Returns:
        The estimate.
    """
    shards = processes if config.training.strategy == "fsdp" else 1
    sharded_bytes = cost.TRAINING_BYTES_PER_PARAMETER - AUTOCAST_COPY_BYTES + 4 * (len(config.training.ema) - 1)
    validation_bytes = 4 if shards > 1 else 0  # validation gathers the averaged network on every GPU
    bytes_per_parameter = sharded_bytes / shards + AUTOCAST_COPY_BYTES * half_precision + validation_bytes
    activation_bytes = counts.activation_bytes * (1 if half_precision else 2)
    return MemoryEstimate(float(counts.parameters * bytes_per_parameter), ACTIVATION_PEAK_FACTOR * activation_bytes)


def fit_batch(config: RunConfig, estimate: MemoryEstimate, memory_bytes: float) -> BatchFit:
    """Divide the batch of a config into as few parts as fit into memory.

    Equal parts may make the batch larger. The learning rate then grows with the square root of the batch.

    Args:
        config: A resolved config.
        estimate: The memory of its training.
        memory_bytes: Bytes of memory.

    Returns:
        The settings.

    Raises:
        ConfigError: One slice does not fit.

    Source: Malladi et al. 2022 (arXiv:2205.10287), the square-root rule for Adam.
    """
    settings = config.training
    batch = settings.batch_size * settings.accumulate
    max_slices = math.floor((USABLE_FRACTION * memory_bytes - estimate.fixed_bytes) / estimate.bytes_per_slice)
    if max_slices < 1:
        needed_gb = estimate.total_bytes(1) / USABLE_FRACTION / 1e9
        raise ConfigError(
            f"one slice needs about {needed_gb:.2f} GB, more than the {memory_bytes / 1e9:.2f} GB of --memory: set "
            "backbone.params.use_checkpoint=true, a smaller data.crop or training.strategy=fsdp"
        )

    accumulate = math.ceil(batch / min(batch, max_slices))
    batch_size = math.ceil(batch / accumulate)
    return BatchFit(
        batch_size=batch_size,
        accumulate=accumulate,
        lr=_scale_lr(settings.lr, batch_size * accumulate, batch),
        max_slices=max_slices,
        max_slices_lr=_scale_lr(settings.lr, max_slices, batch),
    )


def _scale_lr(lr: float, new_batch: int, batch: int) -> float:
    return lr * math.sqrt(new_batch / batch)


def parse_memory(text: str) -> float:
    """Parse an amount of memory.

    Args:
        text: A positive number and GB, GiB, MB or MiB, such as 12GB or 11.5GiB.

    Returns:
        Bytes.

    Raises:
        ConfigError: The text is anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)", text.strip())
    if match is None or match[2] not in BYTES_PER_UNIT or float(match[1]) == 0:
        raise ConfigError(f"memory '{text}' is not an amount of memory; give it as 12GB, 11.5GiB or 800MB")
    return float(match[1]) * BYTES_PER_UNIT[match[2]]
