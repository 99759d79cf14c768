"""The highest throughput of a machine, with which the benchmarks are compared."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

CALLS_PER_TRIAL = 6
TRIALS = 6  # the first warms up


@dataclass
class Ceilings:
    """Throughput of the machine on all threads.

    Attributes:
        conv_bf16: Convolution in bf16, in GFLOP/s.
        conv_fp32: Convolution in fp32, in GFLOP/s.
        matmul_bf16: Matrix product in bf16, in GFLOP/s.
        matmul_fp32: Matrix product in fp32, in GFLOP/s.
        copy: Copy of memory, in GB/s.
    """

    conv_bf16: float = 0.0
    conv_fp32: float = 0.0
    matmul_bf16: float = 0.0
    matmul_fp32: float = 0.0
    copy: float = 0.0


def measure_ceilings(threads: int, clock: Callable[[], float]) -> Ceilings:
    """Measure the throughput of the machine: the best of five trials, on all threads at the same time.

    Args:
        threads: Number of threads.
        clock: Returns seconds.

    Returns:
        The throughput.
    """
    ceilings = Ceilings()
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        image = torch.randn(1, 128, 88, 72).to(dtype).to(memory_format=torch.channels_last)
        weight = torch.randn(128, 128, 3, 3).to(dtype).to(memory_format=torch.channels_last)
        a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
        conv_gflops = 2 * 128 * 128 * 9 * 88 * 72 / 1e9
        matmul_gflops = 2 * 1024**3 / 1e9
        convolve = partial(F.conv2d, image, weight, padding=1)
        setattr(ceilings, f"conv_{name}", measure_rate(convolve, conv_gflops, threads, clock))
        setattr(ceilings, f"matmul_{name}", measure_rate(partial(torch.mm, a, b), matmul_gflops, threads, clock))

    source, target = torch.zeros(1 << 24), torch.zeros(1 << 24)
    gigabytes = 8 * source.numel() / 1e9  # read and written
    ceilings.copy = measure_rate(lambda: target.copy_(source), gigabytes, 1, clock)
    return ceilings


@torch.inference_mode()
def measure_rate(job: Callable[[], object], work: float, threads: int, clock: Callable[[], float]) -> float:
    """Measure how much work per second all threads do together.

    Args:
        job: The job; every thread repeats it.
        work: Amount of work of one job.
        threads: Number of threads.
        clock: Returns seconds.

    Returns:
        Work per second in the fastest trial.
    """

    def repeat_job(_: int) -> None:
        with torch.inference_mode():
            for _ in range(CALLS_PER_TRIAL):
                job()

    durations = []
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        for _ in range(TRIALS):
            start = clock()
            list(executor.map(repeat_job, range(threads)))
            durations.append(clock() - start)
    return threads * CALLS_PER_TRIAL * work / min(durations[1:])
