"""One process or many: torch's own distributed runtime, asked for in this file alone. torchrun starts the processes."""

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
RUNS = count()  # of this process
STARTED = ("RANK", "WORLD_SIZE", "MASTER_ADDR")  # what torchrun, and Kubernetes' PyTorchJob, put into the environment
PATIENCE = timedelta(hours=1)  # of a process with the others: one may read data or write a checkpoint


@dataclass(frozen=True)
class World:
    """The processes of a run, and the device of this one. One alone answers everything itself."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def mean(self, value: float) -> float:
        """The mean of a number over the processes."""
        total = torch.tensor(value, dtype=torch.float64)
        if dist.is_initialized():
            dist.all_reduce(total)
        return total.item() / self.size

    def largest(self, value: int) -> int:
        """The largest of a number over the processes."""
        found = torch.tensor(value)
        if dist.is_initialized():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found.item())

    def gather(self, mine: T) -> list[T]:
        """What every process has, in their order."""
        if not dist.is_initialized():
            return [mine]
        everyones: list[Any] = [None] * self.size
        dist.all_gather_object(everyones, mine)
        return everyones

    def by_first(self, job: Callable[[], T]) -> T:
        """What the first process gets from `job`, in every process. Raises in every process what `job` raises."""
        found: list[Any] = [None, None]
        if self.first:
            try:
                found[0] = job()
            except Exception as error:
                found[1] = error
        if dist.is_initialized():
            dist.broadcast_object_list(found)
        if found[1] is not None:
            raise found[1]
        return found[0]


@contextmanager
def joined(where: torch.device) -> Iterator[World]:
    """The processes that torchrun started, joined for a while; without it, this one. On CUDA each has its own GPU.

    What holds the group (a module of DDP) must be gone before the end: torch would close the group with it, holding
    Python's lock while it waits for gloo's threads, and one of them may be waiting for that lock.
    """
    if not all(name in os.environ for name in STARTED):
        yield World(where)
        return
    if where.type == "cuda":
        where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(where)
    backend = "cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo"
    store, rank, size = next(dist.rendezvous("env://"))
    own = dist.PrefixStore(f"run{next(RUNS)}", store)  # a process that joins again must not find what it left before
    dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield World(where, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def wrap(module: nn.Module, strategy: str, world: World) -> nn.Module:
    """The module that trains: itself (single), with its gradients averaged (ddp) or itself taken apart too (fsdp).

    Raises `ConfigError` where strategy and processes do not go together.
    """
    if strategy == "auto":
        strategy = "ddp" if world.size > 1 else "single"
    if strategy == "single":
        if world.size > 1:
            raise ConfigError(f"training.strategy is single, but there are {world.size} processes; take ddp or fsdp")
        return module
    if not dist.is_initialized():
        raise ConfigError(f"training.strategy {strategy} needs torchrun --nproc-per-node N -m dsdiff train ...")
    if strategy == "ddp":
        return DistributedDataParallel(module, gradient_as_bucket_view=True)
    return _taken_apart(module, world)


def _taken_apart(module: nn.Module, world: World) -> nn.Module:
    """Every block shared out among the processes, put together only while it computes (FSDP2)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    return cast(nn.Module, fully_shard(module, mesh=mesh))


def _blocks(module: nn.Module, listed: bool = False) -> Iterator[nn.Module]:
    """The elements of lists of modules that have weights: what a network repeats."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _blocks(child, listed=True)
        elif not listed:
            yield from _blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def accumulating(module: nn.Module, last: bool) -> AbstractContextManager:
    """While one part of a batch goes through: gradients are averaged over the processes after the last part alone."""
    if isinstance(module, DistributedDataParallel):
        return nullcontext() if last else module.no_sync()
    if hasattr(module, "set_requires_gradient_sync"):
        cast(Any, module).set_requires_gradient_sync(last)
    return nullcontext()


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in place."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from all processes; each must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process holds, shared out and laid out in memory as another is: a fused optimiser
    takes no moments whose strides are not those of their weights."""
    if not isinstance(like, DTensor):
        return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
