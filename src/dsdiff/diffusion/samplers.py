"""Samplers: functions of a denoiser, where they begin, times, a process and a source of noise, one equation each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import expm1, log
from typing import Literal

import torch
from pydantic import Field

from dsdiff.diffusion.bridge import ResidualBridge
from dsdiff.diffusion.ddpm import DDPM
from dsdiff.diffusion.process import Image, NoiseProcess, Spacing
from dsdiff.schema import ConfigModel

Denoiser = Callable[[Image, float], Image]  # (x_t, time) -> x_0
Noise = Callable[[], Image]


class SamplerParams(ConfigModel):
    """`steps` of a synthesis; None leaves them to the process. `spacing`: which times they visit, in diffusers' names
    (see `NoiseProcess.times`)."""

    steps: int | None = Field(None, ge=1)
    spacing: Spacing = "trailing"


class OneStepParams(ConfigModel):
    """Nothing to choose; the two are there so that every sampler has them."""

    steps: Literal[1] | None = None
    spacing: Literal["trailing"] = "trailing"


class DDIMParams(SamplerParams):
    """`eta`: share of the ancestral sampler's noise; 0 is deterministic after the first draw."""

    eta: float = Field(0.0, ge=0, le=1)


@dataclass(frozen=True)
class Sampler:
    """A sampling function with the settings of its config."""

    sample: Callable[..., Image]  # (denoise, x_t, times, process, noise) -> x_0
    steps: int | None
    spacing: Spacing


def one_step(denoise: Denoiser, x_t: Image, times: Sequence[float], process: NoiseProcess, noise: Noise) -> Image:
    """The denoiser's x_0 itself."""
    return denoise(x_t, times[0])


def bridge(denoise: Denoiser, x_t: Image, times: Sequence[float], process: ResidualBridge, noise: Noise) -> Image:
    """Ancestral sampling of a Brownian bridge. With one step it returns the denoiser's x_0 itself: the mean.

    Between t and s < t the path from x_t to x_0 is again a Brownian bridge, so
    x_s = (1 - s/t) x_0 + (s/t) x_t + sigma sqrt(s (t - s) / t) eps, with the denoiser's x_0.
    Source: the posterior of a Brownian bridge, e.g. Li et al. 2023 (arXiv:2205.07680), eq. 9.
    """
    for t, s in pairwise(times):
        x_0 = denoise(x_t, t)
        x_t = (1 - s / t) * x_0 + (s / t) * x_t
        if s > 0:
            x_t = x_t + process.sigma * (s * (t - s) / t) ** 0.5 * noise()
    return x_t


def ancestral(denoise: Denoiser, x_t: Image, times: Sequence[float], process: DDPM, noise: Noise) -> Image:
    """DDPM: draws x_s from the posterior q(x_s | x_t, x_0), with the smaller of its two variances.

    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 6 and 7, between any two times s < t of the schedule.
    """
    for (t, alpha_t, sigma_t), (s, alpha_s, sigma_s) in pairwise(_levels(process, times)):
        x_0 = denoise(x_t, t)
        ratio = (alpha_t / alpha_s) ** 2  # the product of 1 - beta from s to t
        x_t = alpha_s * (1 - ratio) / sigma_t**2 * x_0 + ratio**0.5 * (sigma_s / sigma_t) ** 2 * x_t
        if s > 0:
            x_t = x_t + sigma_s / sigma_t * (1 - ratio) ** 0.5 * noise()
    return x_t


def ddim(denoise: Denoiser, x_t: Image, times: Sequence[float], process: DDPM, noise: Noise, eta: float = 0.0) -> Image:
    """DDIM: keeps the noise that x_0 implies in x_t, but for a share `eta` of the ancestral sampler's that is new.

    Source: Song et al. 2021 (arXiv:2010.02502), eq. 12 and 16.
    """
    for (t, alpha_t, sigma_t), (_, alpha_s, sigma_s) in pairwise(_levels(process, times)):
        x_0 = denoise(x_t, t)
        eps = (x_t - alpha_t * x_0) / sigma_t
        fresh = eta * sigma_s / sigma_t * (1 - (alpha_t / alpha_s) ** 2) ** 0.5  # eq. 16
        x_t = alpha_s * x_0 + max(0.0, sigma_s**2 - fresh**2) ** 0.5 * eps  # eq. 12; max: against rounding
        if fresh > 0:
            x_t = x_t + fresh * noise()
    return x_t


def dpmpp_2m(denoise: Denoiser, x_t: Image, times: Sequence[float], process: DDPM, noise: Noise) -> Image:
    """DPM-Solver++(2M): second order from the last two x_0, in lambda = log(alpha / sigma).

    The first step has no earlier x_0 and the last, to sigma 0, is infinitely long in lambda: both are of first order.
    Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2.
    """
    before, h_before = x_t, 0.0
    for (t, alpha_t, sigma_t), (_, alpha_s, sigma_s) in pairwise(_levels(process, times)):
        x_0 = denoise(x_t, t)
        if sigma_s == 0:
            return x_0
        h = log(alpha_s / sigma_s) - log(alpha_t / sigma_t)
        slope = h / (2 * h_before) if h_before else 0.0  # 1 / (2 r)
        x_t = sigma_s / sigma_t * x_t - alpha_s * expm1(-h) * ((1 + slope) * x_0 - slope * before)
        before, h_before = x_0, h
    return x_t


def euler(denoise: Denoiser, x_t: Image, times: Sequence[float], process: NoiseProcess, noise: Noise) -> Image:
    """Euler's method along a flow, whose velocity at x_t is (x_t - x_0) / t.

    Source: Liu et al. 2023 (arXiv:2209.03003), section 2.
    """
    for t, s in pairwise(times):
        x_t = x_t + (s - t) * (x_t - denoise(x_t, t)) / t
    return x_t


def heun(denoise: Denoiser, x_t: Image, times: Sequence[float], process: NoiseProcess, noise: Noise) -> Image:
    """Heun's method along a flow: the mean of the velocities at both ends of a step; a step to 0 is Euler's.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1, with the flow's velocity for dx/dt.
    """
    for t, s in pairwise(times):
        velocity = (x_t - denoise(x_t, t)) / t
        x_s = x_t + (s - t) * velocity
        if s > 0:
            x_s = x_t + (s - t) * (velocity + (x_s - denoise(x_s, s)) / s) / 2
        x_t = x_s
    return x_t


def _levels(process: DDPM, times: Sequence[float]) -> list[tuple[float, float, float]]:
    """Every time with its alpha and sigma."""
    alpha, sigma = process.alpha_sigma(torch.tensor(times, dtype=torch.float64))
    return list(zip(times, alpha.tolist(), sigma.tolist(), strict=True))
