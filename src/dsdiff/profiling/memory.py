"""What a training takes of memory, and the batch that fits a given one.

bytes = parameters (weight, gradient, two moments, averages, autocast's copy) + slices of a part x PEAK x activations of
one, which are what it keeps for the backward pass.
Under FSDP2 all but autocast's copy is shared out among the processes. docs/training.md has it beside what was measured.
"""

import math
import re
from dataclasses import dataclass

from dsdiff.config.run import RunConfig
from dsdiff.errors import ConfigError
from dsdiff.profiling import cost

UNITS = {"GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20}
USABLE = 0.9  # of the memory: the rest is lost between blocks and to what a convolution needs while it computes
COPY = 2  # bytes of autocast's copy of a parameter
PEAK = 1.5  # of activations: gradients on their way and what convolutions need besides; measured (docs/training.md)


@dataclass(frozen=True)
class Need:
    """Bytes of a training: `fixed` whatever the batch, `slice` for each slice that goes through at once."""

    fixed: float
    slice: float

    def of(self, batch: int) -> float:
        """Bytes at so many slices at once."""
        return self.fixed + self.slice * batch


@dataclass(frozen=True)
class Fit:
    """A training that fits: its batch, parts and learning rate. most: slices at once that would fit, and their rate."""

    batch_size: int
    accumulate: int
    lr: float
    most: int
    most_lr: float


def need(config: RunConfig, counted: cost.Counted, half: bool, processes: int = 1) -> Need:
    """What training takes at the size `counted` was counted at; `half`: in bf16 or fp16 rather than fp32."""
    share = processes if config.training.strategy == "fsdp" else 1
    own = cost.TRAINING_BYTES - COPY + 4 * (len(config.training.ema) - 1)
    validating = 4 if share > 1 else 0  # the averaged network is put together on every GPU
    weights = counted.parameters * (own / share + COPY * half + validating)
    return Need(float(weights), PEAK * counted.activations * (1 if half else 2))


def fit(config: RunConfig, needed: Need, memory: float) -> Fit:
    """The same batch in as few parts as fit into so many bytes.

    Where parts of equal size make the batch larger, the rate grows with the square root of the batch, Adam's rule
    (Malladi et al. 2022, arXiv:2205.10287). Raises `ConfigError` where not even one slice fits.
    """
    settings = config.training
    wanted, most = (
        settings.batch_size * settings.accumulate,
        math.floor((USABLE * memory - needed.fixed) / needed.slice),
    )
    if most < 1:
        raise ConfigError(
            f"one slice needs about {needed.of(1) / USABLE / 1e9:.2f} GB, more than the {memory / 1e9:.2f} GB of "
            "--memory: take backbone.params.use_checkpoint=true, a smaller data.crop or training.strategy=fsdp"
        )
    accumulate = math.ceil(wanted / min(wanted, most))
    size = math.ceil(wanted / accumulate)
    return Fit(size, accumulate, _rate(settings.lr, size * accumulate, wanted), most, _rate(settings.lr, most, wanted))


def _rate(lr: float, slices: int, before: int) -> float:
    return lr * math.sqrt(slices / before)


def parse(text: str) -> float:
    """Bytes of a memory such as 12GB or 11.5GiB. Raises `ConfigError` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)", text.strip())
    if found is None or found[2] not in UNITS or float(found[1]) == 0:
        raise ConfigError(f"memory '{text}' is none; give it as 12GB, 11.5GiB or 800MB")
    return float(found[1]) * UNITS[found[2]]
