"""Time the layers that decide the speed of the engine, each with several implementations, on one CPU thread.

python scripts/benchmarks/kernels.py

Prints CPU microseconds as Markdown: the lower quartile of 30 calls in bf16. `used` marks the implementation of the
engine.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from benchmark_files import create_parser

from dsdiff.layers import primitives

BF16 = torch.bfloat16
CHANNELS_LAST = torch.channels_last
PADDING_STRIDE_DILATION = ([1, 1], [1, 1], [1, 1])
CONV_SHAPES = (
    (1, 64, 176, 144),
    (1, 256, 44, 36),
    (4, 32, 88, 72),
    (1, 32, 88, 72),
    (1, 96, 22, 18),
    (1, 96, 11, 9),
)
NORM_SHAPES = ((1, 64, 176, 144), (4, 32, 88, 72), (1, 96, 44, 36), (4, 96, 22, 18), (1, 96, 11, 9))
ATTENTION_SHAPES = ((1, 1584, 256), (6, 396, 64), (8, 99, 64), (6, 900, 64), (1, 3600, 256))  # heads, tokens, width


def measure_microseconds(job: Callable[[], object], calls: int = 30) -> float:
    """Measure the CPU time of a call.

    Args:
        job: The function to call.
        calls: Number of calls.

    Returns:
        Lower quartile of the calls, in microseconds.
    """
    job()
    durations = []
    for _ in range(calls):
        start = time.process_time_ns()
        job()
        durations.append((time.process_time_ns() - start) / 1e3)
    return sorted(durations)[calls // 4]


def time_convolutions() -> None:
    """Time convolutions as they are, and with weights that oneDNN reordered before (a private function of torch)."""
    print(
        "| 3 x 3 convolution: batch, channels, size | as it is (used) | weights reordered | fp32 | GFLOP/s as it is |"
    )
    print("|---|---|---|---|---|")
    for shape in CONV_SHAPES:
        batch, channels, height, width = shape
        x = torch.randn(shape).to(BF16).to(memory_format=CHANNELS_LAST)
        weight = torch.randn(channels, channels, 3, 3).to(BF16)
        reordered = torch.ops.mkldnn._reorder_convolution_weight(weight, *PADDING_STRIDE_DILATION, 1, list(shape))

        plain = partial(F.conv2d, x, weight.to(memory_format=CHANNELS_LAST), padding=1)
        pointwise = torch.ops.mkldnn._convolution_pointwise
        prepacked = partial(pointwise, x, reordered, None, *PADDING_STRIDE_DILATION, 1, "none", [], "")
        fp32 = partial(F.conv2d, x.float(), weight.float().to(memory_format=CHANNELS_LAST), padding=1)
        plain_us, prepacked_us, fp32_us = (measure_microseconds(job) for job in (plain, prepacked, fp32))

        gflops = 2 * batch * channels * channels * 9 * height * width / 1e3 / plain_us
        size = f"{batch}, {channels}, {height} x {width}"
        print(f"| {size} | {plain_us:.0f} | {prepacked_us:.0f} | {fp32_us:.0f} | {gflops:.0f} |")


def time_norms() -> None:
    """Time torch's group norm in both memory layouts, ours, and the activations."""
    print("\n| group norm: batch, channels, size | channels last | contiguous | ours (used) | SiLU | x + x |")
    print("|---|---|---|---|---|---|")
    for batch, channels, height, width in NORM_SHAPES:
        x = torch.randn(batch, channels, height, width).to(BF16).to(memory_format=CHANNELS_LAST)
        contiguous = x.contiguous()
        norm = primitives.normalization(channels).to(BF16)
        jobs = (
            partial(F.group_norm, x, 32),
            partial(F.group_norm, contiguous, 32),
            partial(norm, x),
            partial(F.silu, x),
            partial(torch.add, x, x),
        )
        cells = " | ".join(f"{measure_microseconds(job):.0f}" for job in jobs)
        print(f"| {batch}, {channels}, {height} x {width} | {cells} |")


def time_attention() -> None:
    """Time the fused kernel, attention over parts of the queries, and the GELU of the MLP."""
    print("\n| attention: heads, tokens, width | fused | in parts (used) | GELU of an MLP: tanh | erf |")
    print("|---|---|---|---|---|")
    for heads, n_tokens, width in ATTENTION_SHAPES:
        q, k, v = torch.randn(3, 1, heads, n_tokens, width).to(BF16)
        hidden = torch.randn(n_tokens, 4 * heads * width).to(BF16)
        jobs = (
            partial(F.scaled_dot_product_attention, q, k, v),
            partial(primitives.attention, q, k, v, True),
            partial(F.gelu, hidden, approximate="tanh"),
            partial(F.gelu, hidden),
        )
        cells = " | ".join(f"{measure_microseconds(job, 12):.0f}" for job in jobs)
        print(f"| {heads}, {n_tokens}, {width} | {cells} |")


def main() -> None:
    """Run the benchmark."""
    create_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        time_convolutions()
        time_norms()
        time_attention()


if __name__ == "__main__":
    main()
