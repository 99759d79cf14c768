"""Samplers: one function and one equation each, which walks from x_1 back to x_0.

Every sampler has the same arguments:
    denoise: Function (x_t, time) -> x_0.
    x_t: Images where sampling begins, noise or source images, divided by the scale of the process.
    times: A falling time grid that ends with 0, see `NoiseProcess.time_grid`.
    process: The noise process.
    sample_noise: Function that returns standard normal noise of the shape of x_t.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import expm1, log
from typing import Literal

import torch
from pydantic import Field

from dsdiff.diffusion.bridge import ResidualBridge
from dsdiff.diffusion.ddpm import DDPM
from dsdiff.diffusion.process import ImageBatch, NoiseProcess, TimestepSpacing
from dsdiff.schema import ConfigModel

Denoiser = Callable[[ImageBatch, float], ImageBatch]  # (x_t, time) -> x_0
NoiseSource = Callable[[], ImageBatch]
TimeGrid = Sequence[float]


class SamplerParams(ConfigModel):
    """Settings that every sampler has.

    Attributes:
        steps: Number of sampling steps. None: the default of the process.
        spacing: Which times the steps visit, in the words of diffusers (see `NoiseProcess.time_grid`).
    """

    steps: int | None = Field(None, ge=1)
    spacing: TimestepSpacing = "trailing"


class OneStepParams(ConfigModel):
    """Settings of the one-step sampler: nothing to choose, but the same names as for every sampler."""

    steps: Literal[1] | None = None
    spacing: Literal["trailing"] = "trailing"


class DDIMParams(SamplerParams):
    """Settings of DDIM.

    Attributes:
        eta: Factor of the noise of the ancestral sampler. With 0, only the first x_t is random.
    """

    eta: float = Field(0.0, ge=0, le=1)


@dataclass(frozen=True)
class Sampler:
    """A sampling function with the settings of a config.

    Attributes:
        sample: Function (denoise, x_t, times, process, sample_noise) -> x_0.
        steps: Number of sampling steps. None: the default of the process.
        spacing: Which times the steps visit.
    """

    sample: Callable[..., ImageBatch]
    steps: int | None
    spacing: TimestepSpacing


def one_step(
    denoise: Denoiser, x_t: ImageBatch, times: TimeGrid, process: NoiseProcess, sample_noise: NoiseSource
) -> ImageBatch:
    """Return the x_0 of the denoiser.

    Args:
        denoise, x_t, times, process, sample_noise: See the module.

    Returns:
        x_0.
    """
    return denoise(x_t, times[0])


def bridge(
    denoise: Denoiser, x_t: ImageBatch, times: TimeGrid, process: ResidualBridge, sample_noise: NoiseSource
) -> ImageBatch:
    """Sample a Brownian bridge step by step. A single step returns the x_0 of the denoiser, the mean.

    Between t and s < t the path from x_t to x_0 is again a Brownian bridge, so
    x_s = (1 - s/t) x_0 + (s/t) x_t + sigma sqrt(s (t - s) / t) eps, with the x_0 of the denoiser.
    Source: the posterior of a Brownian bridge, e.g. Li et al. 2023 (arXiv:2205.07680), eq. 9.

    Args:
        denoise, x_t, times, process, sample_noise: See the module.

    Returns:
        x_0.
    """
    for t, s in pairwise(times):
        x_0 = denoise(x_t, t)
        x_t = (1 - s / t) * x_0 + (s / t) * x_t
        if s > 0:
            x_t = x_t + process.sigma * (s * (t - s) / t) ** 0.5 * sample_noise()
    return x_t


def ancestral(
    denoise: Denoiser, x_t: ImageBatch, times: TimeGrid, process: DDPM, sample_noise: NoiseSource
) -> ImageBatch:
    """Sample x_s from the DDPM posterior q(x_s | x_t, x_0), with the smaller of its two variances.

    Source: Ho et al. 2020 (arXiv:2006.11239), eq. 6 and 7, between any two times s < t of the schedule.

    Args:
        denoise, x_t, times, process, sample_noise: See the module.

    Returns:
        x_0.
    """
    for (t, alpha_t, sigma_t), (s, alpha_s, sigma_s) in pairwise(_noise_levels(process, times)):
        x_0 = denoise(x_t, t)
        ratio = (alpha_t / alpha_s) ** 2  # the product of 1 - beta from s to t
        x_t = alpha_s * (1 - ratio) / sigma_t**2 * x_0 + ratio**0.5 * (sigma_s / sigma_t) ** 2 * x_t
        if s > 0:
            x_t = x_t + sigma_s / sigma_t * (1 - ratio) ** 0.5 * sample_noise()
    return x_t


def ddim(
    denoise: Denoiser,
    x_t: ImageBatch,
    times: TimeGrid,
    process: DDPM,
    sample_noise: NoiseSource,
    eta: float = 0.0,
) -> ImageBatch:
    """Keep the noise that x_0 implies in x_t, and replace a part of it by new noise if `eta` is positive.

    Source: Song et al. 2021 (arXiv:2010.02502), eq. 12 and 16.

    Args:
        denoise, x_t, times, process, sample_noise: See the module.
        eta: See `DDIMParams`.

    Returns:
        x_0.
    """
    for (t, alpha_t, sigma_t), (_, alpha_s, sigma_s) in pairwise(_noise_levels(process, times)):
        x_0 = denoise(x_t, t)
        eps = (x_t - alpha_t * x_0) / sigma_t
        sigma_eta = eta * sigma_s / sigma_t * (1 - (alpha_t / alpha_s) ** 2) ** 0.5  # eq. 16
        x_t = alpha_s * x_0 + max(0.0, sigma_s**2 - sigma_eta**2) ** 0.5 * eps  # eq. 12; max: against rounding
        if sigma_eta > 0:
            x_t = x_t + sigma_eta * sample_noise()
    return x_t


def dpmpp_2m(
    denoise: Denoiser, x_t: ImageBatch, times: TimeGrid, process: DDPM, sample_noise: NoiseSource
) -> ImageBatch:
    """Apply DPM-Solver++(2M): second order from the last two x_0, in lambda = log(alpha / sigma).

    The first step has no earlier x_0. The last step, to sigma 0, is infinitely long in lambda. Both are first order.
    Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2.

    Args:
        denoise, x_t, times, process, sample_noise: See the module.

    Returns:
        x_0.
    """
    x_0_previous, h_previous = x_t, 0.0
    for (t, alpha_t, sigma_t), (_, alpha_s, sigma_s) in pairwise(_noise_levels(process, times)):
        x_0 = denoise(x_t, t)
        if sigma_s == 0:
            return x_0
        h = log(alpha_s / sigma_s) - log(alpha_t / sigma_t)
        slope = h / (2 * h_previous) if h_previous else 0.0  # 1 / (2 r)
        x_t = sigma_s / sigma_t * x_t - alpha_s * expm1(-h) * ((1 + slope) * x_0 - slope * x_0_previous)
        x_0_previous, h_previous = x_0, h
    return x_t


def euler(
    denoise: Denoiser, x_t: ImageBatch, times: TimeGrid, process: NoiseProcess, sample_noise: NoiseSource
) -> ImageBatch:
    """Follow a flow by Euler's method. Its velocity at x_t is (x_t - x_0) / t.

    Source: Liu et al. 2023 (arXiv:2209.03003), section 2.

    Args:
        denoise, x_t, times, process, sample_noise: See the module.

    Returns:
        x_0.
    """
    for t, s in pairwise(times):
        x_t = x_t + (s - t) * (x_t - denoise(x_t, t)) / t
    return x_t


def heun(
    denoise: Denoiser, x_t: ImageBatch, times: TimeGrid, process: NoiseProcess, sample_noise: NoiseSource
) -> ImageBatch:
    """Follow a flow by Heun's method: the mean of the velocities at both ends of a step. A step to 0 is Euler's.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1, with the velocity of the flow for dx/dt.

    Args:
        denoise, x_t, times, process, sample_noise: See the module.

    Returns:
        x_0.
    """
    for t, s in pairwise(times):
        velocity = (x_t - denoise(x_t, t)) / t
        x_s = x_t + (s - t) * velocity
        if s > 0:
            x_s = x_t + (s - t) * (velocity + (x_s - denoise(x_s, s)) / s) / 2
        x_t = x_s
    return x_t


def _noise_levels(process: DDPM, times: TimeGrid) -> list[tuple[float, float, float]]:
    """Return every time with its alpha and sigma."""
    alpha, sigma = process.alpha_sigma(torch.tensor(times, dtype=torch.float64))
    return list(zip(times, alpha.tolist(), sigma.tolist(), strict=True))
