"""The device to compute on, its precision, and the memory of this process."""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from dsdiff.errors import ConfigError

M_ARENA_MAX = -8  # of malloc.h
M_MMAP_THRESHOLD = -3  # of malloc.h
MAX_ARENAS = 2
MMAP_THRESHOLD_BYTES = 4 * 2**20
PROC_STATUS = Path("/proc/self/status")  # Linux: holds the peak memory of this process
PROC_CLEAR_REFS = Path("/proc/self/clear_refs")  # Linux: resets the peak


def resolve_device(name: str = "auto") -> torch.device:
    """Find the device of a name.

    Args:
        name: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:1" or "mps".

    Returns:
        The device.

    Raises:
        ConfigError: The name is unknown, or the machine or this build of torch has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_available in available.items() if is_available))

    kind = name.split(":")[0]
    if kind not in available:
        raise ConfigError(f"device '{name}' is unknown; give auto, cpu, cuda or mps")
    if not available[kind]:
        raise ConfigError(f"device '{name}' is not available on this machine; use --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device '{name}' is unknown; give auto, cpu, cuda, cuda:0 or mps") from error
    n_gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        raise ConfigError(f"device '{name}' does not exist: this machine has {n_gpus} GPUs, from cuda:0")
    return device


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device computes convolutions in bfloat16 natively.

    Args:
        device: The device.

    Returns:
        False for devices that only emulate bfloat16.
    """
    if device.type == "cuda":
        # torch.cuda.is_bf16_supported() is also true for emulation, which has no convolutions before Ampere.
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch lacks the function
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_precision(device: torch.device, precision: str = "auto") -> str:
    """Find the precision of a device.

    Args:
        device: The device.
        precision: "bf16", "fp16", "fp32", or "auto" for bf16 if the device has it, else fp32.

    Returns:
        "bf16", "fp16" or "fp32".
    """
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "fp32"


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager:
    """Make the autocast context of a precision.

    Args:
        device: The device.
        precision: See `resolve_precision`.

    Returns:
        A context that computes in bf16 or fp16, or one that changes nothing for fp32.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(resolve_precision(device, precision))
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def set_threads(n_threads: int | None, benchmark: Callable[[int], int] = lambda max_threads: max_threads) -> None:
    """Set the number of CPU threads of torch.

    Args:
        n_threads: The number. None leaves the choice to OMP_NUM_THREADS if it is set, else to `benchmark`.
        benchmark: Chooses the number of threads, at most as many as there are cores for this process.
    """
    if n_threads is None and "OMP_NUM_THREADS" not in os.environ:
        get_affinity = getattr(os, "sched_getaffinity", None)  # macOS and Windows lack the function
        n_cores = len(get_affinity(0)) if get_affinity else os.cpu_count() or 1
        n_threads = benchmark(n_cores)
    if n_threads is not None:
        torch.set_num_threads(n_threads)


def limit_malloc_arenas() -> None:
    """Let all threads allocate from two heaps, and return large blocks to the system when they are freed.

    By default glibc gives each thread a heap, and memory that one thread freed is useless to the others. Call this
    before threads start. Other C libraries are not changed.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_ARENA_MAX, MAX_ARENAS)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def malloc_trim() -> None:
    """Return unused memory of the heaps to the system: small pieces that pile up. Only glibc can do this."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def select_clock(device: torch.device) -> Callable[[], float]:
    """Choose the clock that measures work on a device.

    Args:
        device: The device.

    Returns:
        A function that returns seconds: CPU time of this process, which other processes do not change, or elapsed time
        for other devices.
    """
    return time.process_time if device.type == "cpu" else time.perf_counter


def peak_memory(device: torch.device) -> int:
    """Return the peak of memory since the last call.

    Args:
        device: On CUDA the memory of tensors counts, else that of this process.

    Returns:
        Bytes. Without Linux and CUDA, the peak since this process started.
    """
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak

    if PROC_CLEAR_REFS.exists():
        lines = PROC_STATUS.read_text(encoding="utf-8").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        PROC_CLEAR_REFS.write_text("5", encoding="utf-8")
        return kilobytes * 1024

    import resource  # Windows lacks the module

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
