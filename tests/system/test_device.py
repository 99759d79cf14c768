"""Where to compute, and what the process does with memory."""

import platform
import re
import subprocess
import sys

import pytest
import torch

from dsdiff.errors import ConfigError
from dsdiff.system import device

THREADS = """
import ctypes, sys, threading
from dsdiff import device
if sys.argv[1] == "shared":
    device.share_heap()
together = threading.Barrier(6)
def allocate():
    together.wait()
    held = [bytes(2000) for _ in range(2000)]
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
file = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fflush(ctypes.c_void_p(file))
"""


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.pick("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="this machine has 1, from cuda:0"):
        device.pick("cuda:9")


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_gpus_before_ampere_compute_no_bf16_but_emulate_it(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert device.has_bf16(torch.device("cuda:0")) == native


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps are shared where the C library is glibc")
def test_threads_allocate_from_two_heaps_and_by_themselves_from_more():
    def heaps(which):
        told = subprocess.run([sys.executable, "-c", THREADS, which], capture_output=True, text=True, check=True).stdout
        return len(re.findall(r"<heap nr", told))

    assert heaps("shared") <= 2 < heaps("own")
