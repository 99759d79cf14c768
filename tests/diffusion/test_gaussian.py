"""Gaussian data have an exact denoiser and a closed-form ODE: samplers converge to it at their own order."""

import math
from itertools import pairwise

import pytest
import torch

from dsdiff.diffusion import samplers
from dsdiff.diffusion.process import even_times
from dsdiff.diffusion.registry import build_process

MEAN, SPREAD = 0.7, 0.4
X_1 = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)


def normals(seed=0, n=20000):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(n, 1, 1, 1, generator=generator, dtype=torch.float64)


def levels(process, time):
    """alpha and sigma of x_t = alpha x_0 + sigma eps."""
    if not hasattr(process, "alpha_sigma"):
        return 1 - time, time
    return tuple(level.item() for level in process.alpha_sigma(torch.tensor([time])))


def marginal(process, time):
    """Mean and standard deviation of x_t."""
    alpha, sigma = levels(process, time)
    return alpha * MEAN, math.hypot(alpha * SPREAD, sigma)


def exact(process):
    """x_0's expectation given x_t, by way of what a perfect network would say."""

    def denoise(x_t, time):
        alpha, sigma = levels(process, time)
        mean, spread = marginal(process, time)
        x_0 = MEAN + alpha * SPREAD**2 / spread**2 * (x_t - mean)
        t = torch.full((len(x_t),), time, dtype=torch.float64)
        eps = (x_t - alpha * x_0) / sigma
        return process.x_0(process.target(x_0, x_0, t, eps), x_t, t)

    return denoise


def transported(process, x, t, s):
    """Where the probability-flow ODE takes x from time t to s: the same number of standard deviations."""
    (mean_t, spread_t), (mean_s, spread_s) = marginal(process, t), marginal(process, s)
    return mean_s + spread_s / spread_t * (x - mean_t)


def orders(process, sample, grids):
    """log2 of how much the error falls from each grid to the next, which has twice its steps."""
    errors = []
    for times in grids:
        found = sample(exact(process), X_1, times, process, lambda: 1 / 0)
        errors.append((found - transported(process, X_1, times[0], times[-1])).abs().max().item())
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
@pytest.mark.parametrize("prediction", ["eps", "v", "x_0"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_order_on_a_schedule(schedule, prediction, sampler, order):
    """To a time above 0: the last step, to 0, is infinitely long in lambda and has no order."""
    process = build_process("ddpm", {"schedule": schedule, "prediction": prediction, "timesteps": 4096})
    high, low = 3600, 400
    grids = [[(high - (high - low) * k / steps) / 4096 for k in range(steps + 1)] for steps in (40, 80, 160)]
    assert orders(process, getattr(samplers, sampler), grids)[-1] == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_order_on_a_flow(sampler, order):
    process = build_process("flow", {})
    grids = [even_times(steps, "trailing") for steps in (40, 80, 160)]
    assert orders(process, getattr(samplers, sampler), grids)[-1] == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_all_the_way_the_ode_is_followed(schedule, sampler):
    process = build_process("ddpm", {"schedule": schedule})
    found = getattr(samplers, sampler)(exact(process), X_1, process.times(1000, "trailing"), process, lambda: 1 / 0)
    assert torch.allclose(found, transported(process, X_1, 1.0, 0.0), atol=5e-3)


@pytest.mark.parametrize("eta", [None, 0.5, 1.0])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_noisy_samplers_have_the_datas_moments(schedule, eta):
    """None: the ancestral sampler. Finite steps lose some spread: at 50 steps 13 %, at 250 4 %, at 1000 1 %."""
    process, noise = build_process("ddpm", {"schedule": schedule, "prediction": "v"}), normals()

    def sample(*given):
        return samplers.ancestral(*given) if eta is None else samplers.ddim(*given, eta=eta)

    found = sample(exact(process), noise(), process.times(250, "trailing"), process, noise)
    assert found.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert found.std().item() == pytest.approx(SPREAD, rel=0.05)


def test_eta_1_is_the_ancestral_sampler():
    process = build_process("ddpm", {"prediction": "v"})
    times, begin = process.times(20, "trailing"), normals(1, 9)()
    found = samplers.ddim(exact(process), begin, times, process, normals(2, 9), eta=1.0)
    assert torch.allclose(found, samplers.ancestral(exact(process), begin, times, process, normals(2, 9)), atol=1e-10)


def test_a_flow_knows_one_perfect_step_when_the_data_are_a_point():
    """x_t = t eps + (1 - t) mu: lines are straight, and Euler's single step is exact."""
    process = build_process("flow", {})
    for sample in (samplers.euler, samplers.heun):
        for steps in (1, 3):
            found = sample(
                lambda x, _: torch.full_like(x, MEAN), X_1, even_times(steps, "trailing"), process, lambda: 1 / 0
            )
            assert torch.allclose(found, torch.tensor(MEAN, dtype=torch.float64))
