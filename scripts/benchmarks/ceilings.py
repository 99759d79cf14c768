"""What a machine can do at most, which the benchmarks' numbers are read against."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F


@dataclass
class Ceilings:
    """What the machine can do: GFLOP/s of a convolution and a matrix product, GB/s of a copy, on all threads."""

    conv_bf16: float = 0.0
    conv_fp32: float = 0.0
    matmul_bf16: float = 0.0
    matmul_fp32: float = 0.0
    copy: float = 0.0


def ceilings(threads: int, clock: Callable[[], float]) -> Ceilings:
    """Each on every thread at the same time, the best of five trials."""
    found = Ceilings()
    for kind, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        image = torch.randn(1, 128, 88, 72).to(dtype).to(memory_format=torch.channels_last)
        weight = torch.randn(128, 128, 3, 3).to(dtype).to(memory_format=torch.channels_last)
        a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
        work = 2 * 128 * 128 * 9 * 88 * 72 / 1e9
        setattr(found, f"conv_{kind}", rate(partial(F.conv2d, image, weight, padding=1), work, threads, clock))
        setattr(found, f"matmul_{kind}", rate(partial(torch.mm, a, b), 2 * 1024**3 / 1e9, threads, clock))
    big = [torch.zeros(1 << 24) for _ in range(2)]
    found.copy = rate(lambda: big[0].copy_(big[1]), 8 * big[0].numel() / 1e9, 1, clock)
    return found


@torch.inference_mode()
def rate(job: Callable[[], object], work: float, threads: int, clock: Callable[[], float], times: int = 6) -> float:
    """Work a second, every thread doing the job by itself."""

    def several(_: int) -> None:
        with torch.inference_mode():
            for _ in range(times):
                job()

    taken = []
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in range(6):
            since = clock()
            list(pool.map(several, range(threads)))
            taken.append(clock() - since)
    return threads * times * work / min(taken[1:])
