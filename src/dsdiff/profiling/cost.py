"""Cost of a network: parameters, multiply-accumulates, seconds and memory of one slice.

Counts need no data: the network runs on torch's meta device, which computes only shapes. Measurements run in fresh
processes.
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
from dsdiff.config.run import RunConfig, load_config
from dsdiff.profiling.subprocess import run_in_subprocess
from dsdiff.system.device import autocast, peak_memory, resolve_device, select_clock

GIB = 2**30
# In float32: weight, gradient, the two moments of AdamW and the moving average; a copy in bfloat16.
TRAINING_BYTES_PER_PARAMETER = 22
GPU_BATCH_SIZE = 8
MAX_TIMING_SECONDS = 10.0  # no further forward pass is timed after this
MAX_TIMED_PASSES = 3
MAX_MEMORY_FRACTION = 0.75  # of the free memory; a training step that needs more is not run
MEMINFO = Path("/proc/meminfo")
NetworkInputs = tuple[Tensor, Tensor, Tensor, Tensor]  # sources, present, x_t, t
TimedJob = Callable[[RunConfig, NetworkInputs, torch.device], float]


@dataclass(frozen=True)
class CountedCost:
    """Counted cost of one slice.

    Attributes:
        parameters: Number of trained parameters.
        macs: Multiply-accumulates of one forward pass, attention included.
        activation_bytes: Bytes that a training step keeps for the backward pass, in bfloat16.
    """

    parameters: int
    macs: int
    activation_bytes: int

    @property
    def gpu_training_gib(self) -> float:
        """Estimate the GPU memory of a training with batch size 8 in bf16.

        All activations count as bfloat16. Of a checkpointed block only the input counts. The waste of the allocator is
        not included.

        Returns:
            Memory in GiB.
        """
        return (TRAINING_BYTES_PER_PARAMETER * self.parameters + GPU_BATCH_SIZE * self.activation_bytes) / GIB


@dataclass(frozen=True)
class MeasuredCost:
    """Measured cost of one slice.

    Attributes:
        seconds: Median time of a forward pass; CPU seconds on the CPU with one thread, else wall-clock seconds.
        inference_gib: Memory of a forward pass above the empty process, in GiB.
        training_gib: Memory of a training step above the empty process, in GiB; None if it was not run.
    """

    seconds: float
    inference_gib: float
    training_gib: float | None


def count_cost(config: RunConfig, height: int, width: int) -> CountedCost:
    """Count the cost of one slice.

    Args:
        config: A resolved config.
        height: Height of the slice, in pixels.
        width: Width of the slice, in pixels.

    Returns:
        Parameters, multiply-accumulates and activation memory.

    Raises:
        GeometryError: The network does not accept this size.
        Exception: Anything else that building the network raises.
    """
    network = config.meta_network()
    with next(network.parameters()).device:
        inputs = random_inputs(config, height, width)

    with FlopCounterMode(display=False) as counter:  # not in no_grad, which fails if parameters are given as arguments
        run_network(network.eval(), inputs)

    storage_bytes: dict[int, int] = {}
    live_tensors: list[Tensor] = []  # the address of a freed storage could be used again

    def record_storage(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            storage_bytes[storage._cdata] = storage.nbytes()
            live_tensors.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record_storage, lambda tensor: tensor), _FusedAttention():
        run_network(network.train(), inputs)

    n_parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    bf16_bytes = sum(storage_bytes.values()) // 2  # counted in float32
    return CountedCost(n_parameters, counter.get_total_flops() // 2, bf16_bytes)


class _Attention(torch.autograd.Function):
    """Attention without computation that saves what the fused kernels save: queries, keys, values and the output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out


class _FusedAttention(TorchFunctionMode):
    """Replace attention on the meta device, where torch would save n x n weights that no fused kernel saves."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


def random_inputs(config: RunConfig, height: int, width: int) -> NetworkInputs:
    """Create the inputs of a network for one slice of noise, on torch's default device.

    Args:
        config: A resolved config.
        height: Height of the slice, in pixels.
        width: Width of the slice, in pixels.

    Returns:
        Sources (1, contrasts, slices, height, width), present (1, contrasts), x_t (1, 1, height, width) and t (1,).
    """
    n_contrasts = len(config.data.contrasts)
    sources = torch.randn(1, n_contrasts, config.data.context_slices, height, width)
    present = torch.ones(1, n_contrasts, dtype=torch.bool)
    return sources, present, torch.randn(1, 1, height, width), torch.full((1,), 500.0)


def run_network(network: Network, inputs: NetworkInputs) -> Tensor:
    """Compute the condition of a slice and one denoising step.

    Args:
        network: The network.
        inputs: Output of `random_inputs`.

    Returns:
        The prediction, (1, 1, height, width).
    """
    sources, present, x_t, t = inputs
    return network(x_t, t, network.condition(sources, present)).value


def measure_cost(config_file: Path, size: int, device: str, threads: int, counts: CountedCost) -> MeasuredCost:
    """Measure time and memory of one slice; inference and training each run in their own process.

    Args:
        config_file: A config file.
        size: Height and width of the slice, in pixels.
        device: auto, cpu, cuda or mps.
        threads: Number of CPU threads.
        counts: Counted cost of the same slice. A training step that needs too much memory is not run.

    Returns:
        Seconds and memory.
    """
    seconds, inference_gib = run_in_subprocess(
        _measure_job, _time_inference, config_file, size, device, threads=threads
    )
    training_gib = None
    needed_bytes = TRAINING_BYTES_PER_PARAMETER * counts.parameters + 2 * counts.activation_bytes
    if needed_bytes < MAX_MEMORY_FRACTION * _free_bytes(device):
        _, training_gib = run_in_subprocess(
            _measure_job, _time_training_step, config_file, size, device, threads=threads
        )
    return MeasuredCost(seconds, inference_gib, training_gib)


def _measure_job(job: TimedJob, config_file: Path, size: int, device_name: str) -> tuple[float, float]:
    """Seconds and GiB of a job."""
    config = load_config(config_file)
    device = resolve_device(device_name)
    with device:
        inputs = random_inputs(config, size, size)

    peak_memory(device)
    start_bytes = peak_memory(device)  # the call resets the peak
    seconds = job(config, inputs, device)
    return seconds, (peak_memory(device) - start_bytes) / GIB


def _time_inference(config: RunConfig, inputs: NetworkInputs, device: torch.device) -> float:
    network = config.build_network().to(device).eval()
    clock = select_clock(device) if torch.get_num_threads() == 1 else time.perf_counter
    durations: list[float] = []
    with torch.inference_mode(), autocast(device):
        run_network(network, inputs).sum().item()
        while len(durations) < MAX_TIMED_PASSES and sum(durations) < MAX_TIMING_SECONDS:
            start = clock()
            run_network(network, inputs).sum().item()
            durations.append(clock() - start)
    return statistics.median(durations)


def _time_training_step(config: RunConfig, inputs: NetworkInputs, device: torch.device) -> float:
    network = config.build_network().to(device)
    optimizer = torch.optim.AdamW(network.parameters())
    start = time.perf_counter()
    with autocast(device):
        loss = run_network(network, inputs).square().mean()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - start


def _free_bytes(device: str) -> int:
    if torch.device(resolve_device(device)).type == "cuda":
        return torch.cuda.mem_get_info()[0]
    if MEMINFO.exists():
        for line in MEMINFO.read_text(encoding="utf-8").splitlines():
            if "MemAvailable" in line:
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
