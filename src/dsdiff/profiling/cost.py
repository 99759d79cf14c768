"""What a backbone costs: parameters, multiplications, seconds, memory. Counted on no data, measured in fresh processes.

Counting runs the network on torch's meta device, which computes shapes alone, so that any size can be counted anywhere.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from dsdiff.conditioning.network import Network
from dsdiff.config import run as configs
from dsdiff.config.run import RunConfig
from dsdiff.profiling.subprocess import apart
from dsdiff.system import device as devices

GIB = 2**30
TRAINING_BYTES = 22  # of every parameter: weight, gradient, AdamW's two moments, average in float32; copy in bfloat16
GPU_BATCH = 8
ENOUGH = 10.0  # seconds of measuring one network's forward
MEMORY = Path("/proc/meminfo")
Given = tuple[Tensor, Tensor, Tensor, Tensor]  # sources, present, x_t, t
Job = Callable[[RunConfig, Given, torch.device], float]


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
        """GiB that training at batch 8 in bf16 would take on a GPU: an estimate, without the allocator's waste.

        Every activation is taken for bfloat16, and of a checkpointed block only the input is counted.
        """
        return (TRAINING_BYTES * self.parameters + GPU_BATCH * self.activations) / GIB


@dataclass(frozen=True)
class Measured:
    """seconds: median forward of one slice, CPU seconds where one thread does it.

    inference, training: GiB above the empty process; None was not run.
    """

    seconds: float
    inference: float
    training: float | None


def count(config: RunConfig, height: int, width: int) -> Counted:
    """Count one slice of a size. Raises what building the network raises, and `GeometryError` for a bad size."""
    network = config.sketch()
    with next(network.parameters()).device:
        given = inputs(config, height, width)
    with FlopCounterMode(display=False) as counter:  # not under no_grad: it trips over parameters given as arguments
        forward(network.eval(), given)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    alive: list[Tensor] = []  # a storage that is freed could lend its address to another
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
        forward(network.train(), given)
    weights = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Counted(weights, counter.get_total_flops() // 2, sum(kept.values()) // 2)


class _Attention(torch.autograd.Function):
    """Attention that computes nothing and keeps what the fused kernels keep: queries, keys, values and the output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out


class _FusedAttention(TorchFunctionMode):
    """On the meta device torch takes attention apart and would keep its n x n weights, which no fused kernel does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


def inputs(config: RunConfig, height: int, width: int) -> Given:
    """A slice of noise, on torch's default device."""
    n, slab = len(config.data.contrasts), config.data.context_slices
    sources, present = torch.randn(1, n, slab, height, width), torch.ones(1, n, dtype=torch.bool)
    return sources, present, torch.randn(1, 1, height, width), torch.full((1,), 500.0)


def forward(network: Network, given: Given) -> Tensor:
    """Condition and one step: what a slice costs."""
    sources, present, x_t, t = given
    return network(x_t, t, network.condition(sources, present)).value


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
    devices.peak_memory(where)
    before = devices.peak_memory(where)  # and from here on the peak counts anew
    seconds = job(config, given, where)
    return seconds, (devices.peak_memory(where) - before) / GIB


def _infer(config: RunConfig, given: Given, where: torch.device) -> float:
    network = config.build_network().to(where).eval()
    clock = devices.clock(where) if torch.get_num_threads() == 1 else time.perf_counter
    taken: list[float] = []
    with torch.inference_mode(), devices.autocast(where):
        forward(network, given).sum().item()
        while len(taken) < 3 and sum(taken) < ENOUGH:
            since = clock()
            forward(network, given).sum().item()
            taken.append(clock() - since)
    return statistics.median(taken)


def _train(config: RunConfig, given: Given, where: torch.device) -> float:
    network = config.build_network().to(where)
    optimizer = torch.optim.AdamW(network.parameters())
    since = time.perf_counter()
    with devices.autocast(where):
        loss = forward(network, given).square().mean()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - since


def _free(device: str) -> int:
    if torch.device(devices.pick(device)).type == "cuda":
        return torch.cuda.mem_get_info()[0]
    if MEMORY.exists():
        return 1024 * next(
            int(line.split()[1]) for line in MEMORY.read_text(encoding="utf-8").splitlines() if "MemAvailable" in line
        )
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
