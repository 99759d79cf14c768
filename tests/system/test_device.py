"""Devices, their precision, and the heaps of this process."""

import platform
import re
import subprocess
import sys

import pytest
import torch

from dsdiff.errors import ConfigError
from dsdiff.system import device

ALLOCATE_IN_THREADS = """
import ctypes, sys, threading
from dsdiff.system import device
if sys.argv[1] == "limited":
    device.limit_malloc_arenas()
barrier = threading.Barrier(6)
def allocate():
    barrier.wait()
    blocks = [bytes(2000) for _ in range(2000)]
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
file = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fflush(ctypes.c_void_p(file))
"""


def test_a_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="this machine has 1 GPUs, from cuda:0"):
        device.resolve_device("cuda:9")


@pytest.mark.parametrize(("capability", "is_native"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_gpus_before_ampere_have_no_native_bf16(monkeypatch, capability, is_native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert device.has_bf16(torch.device("cuda:0")) == is_native


def count_heaps(setting):
    process = subprocess.run(
        [sys.executable, "-c", ALLOCATE_IN_THREADS, setting], capture_output=True, text=True, check=True
    )
    return len(re.findall(r"<heap nr", process.stdout))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can limit its heaps")
def test_limited_heaps_are_two_and_default_heaps_more():
    assert count_heaps("limited") <= 2 < count_heaps("default")
