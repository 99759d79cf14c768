"""Training in one or more processes, which torchrun starts. Only this file uses torch's distributed runtime."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from dsdiff.errors import ConfigError

T = TypeVar("T")
_RUN_COUNTER = count()  # of this process
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR")  # set by torchrun, and by Kubernetes' PyTorchJob
COLLECTIVE_TIMEOUT = timedelta(hours=1)  # one process may read data or write a checkpoint while the others wait


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run.

    Attributes:
        device: Device of this process.
        rank: Number of this process.
        size: Number of processes. A single process needs no runtime.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Tell whether this process writes files and messages.

        Returns:
            True for rank 0.
        """
        return self.rank == 0

    def all_reduce_mean(self, value: float) -> float:
        """Compute the mean of a number over the processes.

        Args:
            value: Number of this process.

        Returns:
            The mean.
        """
        total = torch.tensor(value, dtype=torch.float64)
        if dist.is_initialized():
            dist.all_reduce(total)

        return total.item() / self.size

    def all_reduce_max(self, value: int) -> int:
        """Compute the maximum of a number over the processes.

        Args:
            value: Number of this process.

        Returns:
            The maximum.
        """
        maximum = torch.tensor(value)
        if dist.is_initialized():
            dist.all_reduce(maximum, dist.ReduceOp.MAX)

        return int(maximum.item())

    def all_gather(self, value: T) -> list[T]:
        """Collect a value from every process.

        Args:
            value: Value of this process.

        Returns:
            Values in the order of ranks.
        """
        if not dist.is_initialized():
            return [value]

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def rank0_broadcast(self, job: Callable[[], T]) -> T:
        """Run a job in the first process, and broadcast its result. Its exception is raised in every process.

        Args:
            job: Called in the first process only.

        Returns:
            Its result, in every process.
        """
        outcome: list[Any] = [None, None]  # result, exception
        if self.is_first:
            try:
                outcome[0] = job()
            except Exception as error:
                outcome[1] = error
        if dist.is_initialized():
            dist.broadcast_object_list(outcome)

        result, exception = outcome
        if exception is not None:
            raise exception
        return result


@contextmanager
def init_distributed(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started. On CUDA each process has its own GPU.

    What holds the group (a module of DDP) must be released before the end. Else torch closes the group with it: it
    holds Python's lock while it waits for gloo's threads, and one of them may wait for that lock.

    Args:
        device: Device to train on.

    Yields:
        The processes; this process alone without torchrun.
    """
    if not all(name in os.environ for name in LAUNCHER_VARIABLES):
        yield ProcessGroup(device)
        return

    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, size = next(dist.rendezvous("env://"))
    run_store = dist.PrefixStore(f"run{next(_RUN_COUNTER)}", store)  # a second run must not read keys of the first
    dist.init_process_group(backend, store=run_store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    try:
        yield ProcessGroup(device, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def wrap(module: nn.Module, strategy: str, process_group: ProcessGroup) -> nn.Module:
    """Wrap a module for training in several processes.

    Args:
        module: Module to train.
        strategy: "single"; "ddp", which averages gradients; "fsdp", which shards weights too; "auto" selects ddp for
            several processes, else single.
        process_group: Processes of the run.

    Returns:
        The module to call.

    Raises:
        ConfigError: Strategy and processes do not go together.
    """
    if strategy == "auto":
        strategy = "ddp" if process_group.size > 1 else "single"

    if strategy == "single":
        if process_group.size > 1:
            raise ConfigError(
                f"training.strategy is single, but there are {process_group.size} processes; use ddp or fsdp"
            )
        return module

    if not dist.is_initialized():
        raise ConfigError(f"training.strategy {strategy} needs torchrun --nproc-per-node N -m dsdiff train ...")
    if strategy == "ddp":
        return DistributedDataParallel(module, gradient_as_bucket_view=True)
    return _apply_fsdp(module, process_group)


def _apply_fsdp(module: nn.Module, process_group: ProcessGroup) -> nn.Module:
    """Shard every block (FSDP2); a block is gathered only while it computes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(process_group.device.type, (process_group.size,))
    for block in _repeated_blocks(module):
        fully_shard(block, mesh=mesh)

    return cast(nn.Module, fully_shard(module, mesh=mesh))


def _repeated_blocks(module: nn.Module, is_list: bool = False) -> Iterator[nn.Module]:
    """Elements of module lists that have weights."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _repeated_blocks(child, is_list=True)
        elif not is_list:
            yield from _repeated_blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def no_sync(module: nn.Module, last: bool) -> AbstractContextManager:
    """Average gradients over the processes only after the last part of a batch.

    Args:
        module: Module that `wrap` returned.
        last: This is the last part.

    Returns:
        A context for forward and backward pass of the part.
    """
    if isinstance(module, DistributedDataParallel):
        return nullcontext() if last else module.no_sync()

    if hasattr(module, "set_requires_gradient_sync"):
        cast(Any, module).set_requires_gradient_sync(last)
    return nullcontext()


def local_tensor(tensor: Tensor) -> Tensor:
    """Take the part of a tensor that this process holds.

    Args:
        tensor: Sharded or not.

    Returns:
        The part; not a copy.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor from all processes; all processes must call it.

    Args:
        tensor: Sharded or not.

    Returns:
        The full tensor.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a tensor, and lay it out in memory, as another one is.

    A fused optimizer requires that moments have the strides of their weights.

    Args:
        tensor: Full tensor, the same in all processes.
        like: Sharded or not.

    Returns:
        The sharded tensor.
    """
    if not isinstance(like, DTensor):
        return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
