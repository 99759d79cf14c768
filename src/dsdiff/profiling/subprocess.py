"""A job in a process of its own, so that memory is counted anew and a job that dies takes nothing with it."""

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from dsdiff.backbones import registry
from dsdiff.errors import DsdiffError

T = TypeVar("T")
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


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
    _end_with_parent()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    registry.BACKBONES.update(allowed)
    return job(*args)


def _end_with_parent() -> None:
    """Be asked to stop when the process that waits for this one dies, as by SIGTERM; on Linux, which can be told so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
