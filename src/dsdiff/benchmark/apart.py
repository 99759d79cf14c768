"""A job in a process of its own, so that memory is counted anew and a job that dies takes nothing with it."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from dsdiff.backbones import registry
from dsdiff.errors import DsdiffError

T = TypeVar("T")


def apart(job: Callable[..., T], *args: Any, threads: int = 1) -> T:
    """What `job(*args)` returns, computed in a new process on so many CPU threads; job and arguments must pickle.

    Raises what the job raises, and `DsdiffError` where its process dies.
    """
    allowed = {name: path for name, path in registry.BACKBONES.items() if "." in name}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_alone, job, args, allowed, threads).result()
        except BrokenProcessPool as error:
            raise DsdiffError("its process died; the memory may not have sufficed") from error


def _alone(job: Callable[..., T], args: tuple[Any, ...], allowed: dict[str, str], threads: int) -> T:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    registry.BACKBONES.update(allowed)
    return job(*args)
