"""Gaussian data have an exact denoiser and a closed-form ODE: samplers converge to it with their own order."""

import math
from itertools import pairwise

import pytest
import torch

from dsdiff.diffusion import samplers
from dsdiff.diffusion.process import uniform_time_grid
from dsdiff.diffusion.registry import build_process

MEAN, STD = 0.7, 0.4
X_1 = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)


def noise_source(seed=0, n=20000):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(n, 1, 1, 1, generator=generator, dtype=torch.float64)


def no_noise():
    raise AssertionError("a deterministic sampler must not ask for noise")


def alpha_sigma(process, time):
    """alpha and sigma of x_t = alpha x_0 + sigma eps."""
    if not hasattr(process, "alpha_sigma"):
        return 1 - time, time
    return tuple(level.item() for level in process.alpha_sigma(torch.tensor([time])))


def marginal(process, time):
    """Mean and standard deviation of x_t."""
    alpha, sigma = alpha_sigma(process, time)
    return alpha * MEAN, math.hypot(alpha * STD, sigma)


def exact_denoiser(process):
    """The expectation of x_0 given x_t, through the output of a perfect network."""

    def denoise(x_t, time):
        alpha, sigma = alpha_sigma(process, time)
        mean, std = marginal(process, time)
        x_0 = MEAN + alpha * STD**2 / std**2 * (x_t - mean)
        t = torch.full((len(x_t),), time, dtype=torch.float64)
        eps = (x_t - alpha * x_0) / sigma
        return process.x_0(process.target(x_0, x_0, t, eps), x_t, t)

    return denoise


def ode_solution(process, x, t, s):
    """Where the probability-flow ODE takes x from time t to s: the same number of standard deviations."""
    (mean_t, std_t), (mean_s, std_s) = marginal(process, t), marginal(process, s)
    return mean_s + std_s / std_t * (x - mean_t)


def convergence_orders(process, sample, grids):
    """log2 of the ratio of the errors of two grids, of which the second has twice as many steps."""
    errors = []
    for times in grids:
        x_0 = sample(exact_denoiser(process), X_1, times, process, no_noise)
        errors.append((x_0 - ode_solution(process, X_1, times[0], times[-1])).abs().max().item())
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_convergence_order_on_a_schedule(schedule, prediction, sampler, order):
    """The grids end above time 0: the last step, to 0, is infinitely long in lambda and has no order."""
    process = build_process("ddpm", {"schedule": schedule, "prediction": prediction, "timesteps": 4096})
    high, low = 3600, 400
    grids = []
    for steps in (40, 80, 160):
        grids.append([(high - (high - low) * k / steps) / 4096 for k in range(steps + 1)])
    assert convergence_orders(process, getattr(samplers, sampler), grids)[-1] == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_convergence_order_on_a_flow(sampler, order):
    process = build_process("flow", {})
    grids = [uniform_time_grid(steps, "trailing") for steps in (40, 80, 160)]
    assert convergence_orders(process, getattr(samplers, sampler), grids)[-1] == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_sampling_follows_the_ode_to_time_0(schedule, sampler):
    process = build_process("ddpm", {"schedule": schedule})
    sample, times = getattr(samplers, sampler), process.time_grid(1000, "trailing")
    x_0 = sample(exact_denoiser(process), X_1, times, process, no_noise)
    assert torch.allclose(x_0, ode_solution(process, X_1, 1.0, 0.0), atol=5e-3)


@pytest.mark.parametrize("eta", [None, 0.5, 1.0])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_stochastic_samples_have_the_moments_of_the_data(schedule, eta):
    """None: the ancestral sampler. Finite steps lose some variance: std at 50 steps -13 %, at 250 -4 %, at 1000 -1 %."""
    process, sample_noise = build_process("ddpm", {"schedule": schedule, "prediction": "v"}), noise_source()

    def sample(*arguments):
        return samplers.ancestral(*arguments) if eta is None else samplers.ddim(*arguments, eta=eta)

    times = process.time_grid(250, "trailing")
    x_0 = sample(exact_denoiser(process), sample_noise(), times, process, sample_noise)
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x_0.std().item() == pytest.approx(STD, rel=0.05)


def test_ddim_with_eta_1_is_the_ancestral_sampler():
    process = build_process("ddpm", {"prediction": "v"})
    times, x_1 = process.time_grid(20, "trailing"), noise_source(1, 9)()
    denoise = exact_denoiser(process)
    ddim = samplers.ddim(denoise, x_1, times, process, noise_source(2, 9), eta=1.0)
    ancestral = samplers.ancestral(denoise, x_1, times, process, noise_source(2, 9))
    assert torch.allclose(ddim, ancestral, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_flow_to_a_single_point_is_exact_in_one_step(sampler, steps):
    """x_t = t eps + (1 - t) mu: the lines are straight, so Euler's single step is exact."""
    process, times = build_process("flow", {}), uniform_time_grid(steps, "trailing")
    x_0 = getattr(samplers, sampler)(lambda x_t, _: torch.full_like(x_t, MEAN), X_1, times, process, no_noise)
    assert torch.allclose(x_0, torch.tensor(MEAN, dtype=torch.float64))
