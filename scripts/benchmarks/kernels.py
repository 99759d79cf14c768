"""The layers that decide the engine's speed, each by the ways there are to compute it: CPU microseconds on one thread.

python benchmarks/kernels.py

Lower quartile of 30 calls, in bf16. `used` marks what the engine takes. Prints Markdown.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from dsdiff.layers import basic

BF16, CL = torch.bfloat16, torch.channels_last
GEOMETRY = ([1, 1], [1, 1], [1, 1])  # padding, stride, dilation


def microseconds(job: Callable[[], object], calls: int = 30) -> float:
    """CPU time of a call."""
    job()
    taken = []
    for _ in range(calls):
        since = time.process_time_ns()
        job()
        taken.append((time.process_time_ns() - since) / 1e3)
    return sorted(taken)[calls // 4]


def convolutions() -> None:
    """As it is, and with the weights reordered beforehand for oneDNN (a private function of torch)."""
    print(
        "| 3 x 3 convolution: batch, channels, size | as it is (used) | weights reordered | fp32 | GFLOP/s as it is |"
    )
    print("|---|---|---|---|---|")
    for shape in (
        (1, 64, 176, 144),
        (1, 256, 44, 36),
        (4, 32, 88, 72),
        (1, 32, 88, 72),
        (1, 96, 22, 18),
        (1, 96, 11, 9),
    ):
        b, c, h, w = shape
        x, weight = torch.randn(shape).to(BF16).to(memory_format=CL), torch.randn(c, c, 3, 3).to(BF16)
        reordered = torch.ops.mkldnn._reorder_convolution_weight(weight, *GEOMETRY, 1, list(shape))
        plain = microseconds(partial(F.conv2d, x, weight.to(memory_format=CL), padding=1))
        packed = partial(torch.ops.mkldnn._convolution_pointwise, x, reordered, None, *GEOMETRY, 1, "none", [], "")
        ready = microseconds(packed)
        single = microseconds(partial(F.conv2d, x.float(), weight.float().to(memory_format=CL), padding=1))
        rate = 2 * b * c * c * 9 * h * w / 1e3 / plain
        print(f"| {b}, {c}, {h} x {w} | {plain:.0f} | {ready:.0f} | {single:.0f} | {rate:.0f} |")


def norms() -> None:
    """torch's kernel in either layout, and the activations beside it."""
    print("\n| group norm: batch, channels, size | channels last | contiguous | ours (used) | SiLU | x + x |")
    print("|---|---|---|---|---|---|")
    for b, c, h, w in ((1, 64, 176, 144), (4, 32, 88, 72), (1, 96, 44, 36), (4, 96, 22, 18), (1, 96, 11, 9)):
        x = torch.randn(b, c, h, w).to(BF16).to(memory_format=CL)
        still, norm = x.contiguous(), basic.normalization(c).to(BF16)
        jobs = (
            lambda x=x: F.group_norm(x, 32), lambda x=still: F.group_norm(x, 32), lambda x=x, norm=norm: norm(x),
            lambda x=x: F.silu(x), lambda x=x: x + x,
        )  # fmt: skip
        print(f"| {b}, {c}, {h} x {w} | {' | '.join(f'{microseconds(job):.0f}' for job in jobs)} |")


def attentions() -> None:
    """The fused kernel, and products and softmax over parts of the queries."""
    print("\n| attention: heads, tokens, width | fused | in parts (used) | GELU of an MLP: tanh | erf |")
    print("|---|---|---|---|---|")
    for heads, n, e in ((1, 1584, 256), (6, 396, 64), (8, 99, 64), (6, 900, 64), (1, 3600, 256)):
        q, k, v = torch.randn(3, 1, heads, n, e).to(BF16)
        inner = torch.randn(n, 4 * heads * e).to(BF16)
        jobs = (
            lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
            lambda q=q, k=k, v=v: basic.attention(q, k, v, True),
            lambda x=inner: F.gelu(x, approximate="tanh"),
            lambda x=inner: F.gelu(x),
        )
        print(f"| {heads}, {n}, {e} | {' | '.join(f'{microseconds(job, 12):.0f}' for job in jobs)} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.inference_mode():
        convolutions()
        norms()
        attentions()
