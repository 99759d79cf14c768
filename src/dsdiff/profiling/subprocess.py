"""Run a job in a new process: memory is measured from zero, and a crash does not affect the caller."""

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
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def run_in_subprocess(job: Callable[..., T], *args: Any, threads: int = 1) -> T:
    """Run a function in a new process.

    Args:
        job: The function; it must be picklable, as its arguments and its result.
        *args: Arguments of the function.
        threads: Number of CPU threads.

    Returns:
        The result of `job(*args)`.

    Raises:
        DsdiffError: The process died.
        Exception: Anything that the function raises.
    """
    trusted = {name: path for name, path in registry.BACKBONES.items() if "." in name}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        try:
            return executor.submit(_run_job, job, args, trusted, threads).result()
        except BrokenProcessPool as error:
            raise DsdiffError("the process of the job died, perhaps for lack of memory") from error


def _run_job(job: Callable[..., T], args: tuple[Any, ...], trusted: dict[str, str], threads: int) -> T:
    _exit_with_parent()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    registry.BACKBONES.update(trusted)
    return job(*args)


def _exit_with_parent() -> None:
    """Get SIGTERM when the parent process dies; only Linux supports this."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
