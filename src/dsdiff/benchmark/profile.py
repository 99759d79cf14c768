"""What a backbone costs: parameters, multiplications, seconds, memory. Counted on no data, measured in fresh processes.

Counting runs the network on torch's meta device, which computes shapes alone, so that any size can be counted anywhere.
"""

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dsdiff import config as configs
from dsdiff import device as devices
from dsdiff.benchmark.apart import apart
from dsdiff.conditioning import condition
from dsdiff.config import RunConfig
from dsdiff.types import Condition

GIB = 2**30
TRAINING_BYTES = 16  # of every parameter: weight, gradient and AdamW's two moments, in float32
GPU_BATCH = 8
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux: the peak can be read and reset
MEMORY = Path("/proc/meminfo")
Job = Callable[[RunConfig, tuple[Tensor, Tensor, Condition], torch.device], float]


@dataclass(frozen=True)
class Counted:
    """parameters: those trained. macs: multiply-accumulates of one forward of one slice, attention included.

    activations: bytes that one slice's training step keeps for the backward pass, in bfloat16.
    """

    parameters: int
    macs: int
    activations: int

    @property
    def gpu_training(self) -> float:
        """GiB that training at batch 8 in bf16 would take on a GPU: an estimate, without the allocator's waste."""
        return (TRAINING_BYTES * self.parameters + GPU_BATCH * self.activations) / GIB


@dataclass(frozen=True)
class Measured:
    """seconds: median forward of one slice. inference, training: GiB above the empty process; None was not run."""

    seconds: float
    inference: float
    training: float | None


def count(config: RunConfig, height: int, width: int) -> Counted:
    """Count one slice of a size. Raises what building the backbone raises, and `GeometryError` for a bad size."""
    with torch.device("meta"):
        network = config.build_backbone()
        given = inputs(config, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(*given)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    alive: list[Tensor] = []  # a storage that is freed could lend its address to another
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(*given)
    weights = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Counted(weights, counter.get_total_flops() // 2, sum(kept.values()) // 2)


def inputs(config: RunConfig, height: int, width: int) -> tuple[Tensor, Tensor, Condition]:
    """A slice of noise with its condition, on torch's default device."""
    data = config.data
    sources = torch.randn(1, len(data.contrasts), data.slab, height, width)
    cond = condition.build(config.conditioning, sources, torch.ones(1, len(data.contrasts), dtype=torch.bool))
    return torch.randn(1, 1, height, width), torch.full((1,), 500.0), cond


def measure(file: Path, size: int, device: str, threads: int, counted: Counted) -> Measured:
    """Measure one slice of size x size, inference and training each in a process of its own.

    Training is not run where it would need more than three quarters of the memory that is free.
    """
    seconds, inference = apart(_alone, _infer, file, size, device, threads=threads)
    needed = TRAINING_BYTES * counted.parameters + 2 * counted.activations
    training = apart(_alone, _train, file, size, device, threads=threads)[1] if needed < 0.75 * _free(device) else None
    return Measured(seconds, inference, training)


def _alone(job: Job, file: Path, size: int, device: str) -> tuple[float, float]:
    """Seconds and GiB of a job."""
    config, where = configs.load(file), devices.pick(device)
    with where:
        given = inputs(config, size, size)
    _used(where)
    before = _used(where)  # and from here on the peak counts anew
    seconds = job(config, given, where)
    return seconds, (_used(where) - before) / GIB


def _infer(config: RunConfig, given: tuple[Tensor, Tensor, Condition], where: torch.device) -> float:
    network = config.build_backbone().to(where).eval()
    taken = []
    with torch.inference_mode(), devices.autocast(where):
        for _ in range(4):
            since = time.perf_counter()
            network(*given).value.sum().item()
            taken.append(time.perf_counter() - since)
    return statistics.median(taken[1:])


def _train(config: RunConfig, given: tuple[Tensor, Tensor, Condition], where: torch.device) -> float:
    network = config.build_backbone().to(where)
    optimizer = torch.optim.AdamW(network.parameters())
    since = time.perf_counter()
    with devices.autocast(where):
        loss = network(*given).value.square().mean()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - since


def _used(where: torch.device) -> int:
    """Most bytes in use at one time since this was last asked: on CUDA by tensors, else by the process."""
    if where.type == "cuda":
        peak = torch.cuda.max_memory_allocated(where)
        torch.cuda.reset_peak_memory_stats(where)
        return peak
    if CLEAR.exists():
        peak = next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        CLEAR.write_text("5")
        return peak * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _free(device: str) -> int:
    if torch.device(devices.pick(device)).type == "cuda":
        return torch.cuda.mem_get_info()[0]
    if MEMORY.exists():
        return 1024 * next(int(line.split()[1]) for line in MEMORY.read_text().splitlines() if "MemAvailable" in line)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
