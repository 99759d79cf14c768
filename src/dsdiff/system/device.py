"""Where to compute and in which precision."""

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

ARENA_MAX, MMAP_THRESHOLD = -8, -3  # M_ARENA_MAX, M_MMAP_THRESHOLD of malloc.h
LARGE = 4 * 2**20  # bytes
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux: the peak can be read and reset


def pick(name: str = "auto") -> torch.device:
    """The device of a name: auto (CUDA, then MPS, then CPU), cpu, cuda, cuda:1, mps.

    Raises `ConfigError` for one that this machine or this build of torch does not have.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, available in there.items() if available))
    kind = name.split(":")[0]
    if kind not in there:
        raise ConfigError(f"device '{name}' is unknown; there are: auto, cpu, cuda, mps")
    if not there[kind]:
        raise ConfigError(f"device '{name}' is not available here; use --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device '{name}' is not a device; give auto, cpu, cuda, cuda:0 or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device '{name}' is not there: this machine has {torch.cuda.device_count()}, from cuda:0")
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes convolutions in bfloat16 natively."""
    if device.type == "cuda":
        # torch.cuda.is_bf16_supported() is true of emulation too, which has no convolutions before Ampere.
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent from older torch
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def precision_of(device: torch.device, precision: str = "auto") -> str:
    """bf16, fp16 or fp32: "auto" takes bf16 where the device has it."""
    return ("bf16" if has_bf16(device) else "fp32") if precision == "auto" else precision


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager:
    """Autocast to bf16 or fp16 where `precision_of` says so; otherwise nothing changes."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision_of(device, precision))
    return torch.autocast(device.type, half) if half is not None else nullcontext()


def set_threads(threads: int | None, worthwhile: Callable[[int], int] = lambda most: most) -> None:
    """Use so many CPU threads; None leaves OMP_NUM_THREADS to decide, or takes those of the cores this process may use
    that are worthwhile."""
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
        threads = worthwhile(len(affinity(0)) if affinity else os.cpu_count() or 1)
    if threads is not None:
        torch.set_num_threads(threads)


def share_heap() -> None:
    """Let all threads allocate from two heaps: glibc gives each one of its own, and what one has freed is of no use to
    the others. What is large lies outside of them, and goes back to the system when it is freed. To be called before
    there are threads; nothing happens where the C library is another.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(ARENA_MAX, 2)
        libc.mallopt(MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Give back to the system what the heaps hold unused: pieces too small for what is asked for next, which pile up.

    Nothing happens where the C library is another.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def clock(device: torch.device) -> Callable[[], float]:
    """What tells seconds of work: the CPU's own, which do not count what others compute, or where another device
    computes those of the clock.
    """
    return time.process_time if device.type == "cpu" else time.perf_counter


def peak_memory(device: torch.device) -> int:
    """Most bytes in use at one time since this was last asked: on CUDA by tensors, else by the process."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    if CLEAR.exists():
        peak = next(
            int(line.split()[1]) for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
        )
        CLEAR.write_text("5", encoding="utf-8")
        return peak * 1024
    import resource  # absent from Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
