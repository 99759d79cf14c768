"""Samplers: functions of a denoiser, a start, times and a process."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from dsdiff.diffusion.process import ResidualBridge

Denoiser = Callable[[Float[Tensor, "b 1 h w"], float], Float[Tensor, "b 1 h w"]]  # (x_t, time) -> x_0


def uniform_times(steps: int) -> list[float]:
    """`steps` equal steps from time 1 to time 0."""
    return [1 - step / steps for step in range(steps + 1)]


def bridge(
    denoise: Denoiser,
    start: Float[Tensor, "b 1 h w"],
    times: Sequence[float],
    process: ResidualBridge,
    noise: Callable[[], Float[Tensor, "b 1 h w"]],
) -> Float[Tensor, "b 1 h w"]:
    """Ancestral sampling of a Brownian bridge. With one step it returns the denoiser's x_0 itself: the mean.

    Between t and s < t the path from x_t to x_0 is again a Brownian bridge, so
    x_s = (1 - s/t) x_0 + (s/t) x_t + sigma sqrt(s (t - s) / t) eps, with the denoiser's x_0.
    Source: the posterior of a Brownian bridge, e.g. Li et al. 2023 (arXiv:2205.07680), eq. 9.
    """
    x_t = start
    for t, s in pairwise(times):
        x_0 = denoise(x_t, t)
        x_t = (1 - s / t) * x_0 + (s / t) * x_t
        if s > 0:
            x_t = x_t + process.sigma * (s * (t - s) / t) ** 0.5 * noise()
    return x_t
