"""Whole trajectories against diffusers, with a fixed nonlinear network."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

from dsdiff.diffusion import samplers
from dsdiff.diffusion.process import uniform_time_grid
from dsdiff.diffusion.registry import build_process

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers warns about its own imports
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
    )

SHAPE = (2, 1, 5, 4)
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": ()}
DIFFUSERS_NAMES = {"cosine": "squaredcos_cap_v2", "eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
PREDICTIONS = ("eps", "v", "x_0")
SPACINGS = ("leading", "trailing", "linspace")
TOLERANCE = 2e-6  # relative to the largest value of the trajectory
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")


def network(x_t, t):
    """A fixed network at timestep t; a continuous time has the same scale."""
    return torch.tanh(1.3 * x_t + 0.3 * np.sin(t / 90)) + 0.2 * x_t.roll(1, -1)


def noise_source(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def no_noise():
    raise AssertionError("a deterministic sampler must not ask for noise")


def sampler_trajectory(process, sample, times, x_1, sample_noise=no_noise):
    """Every x_t that a sampler of dsdiff passes to the network, and its result."""
    visited = []

    def denoise(x_t, time):
        visited.append(x_t)
        t = torch.full((len(x_t),), time, dtype=torch.float64)
        return process.x_0(network(x_t, process.timestep(t)[0].item()), x_t, t)

    x_0 = sample(denoise, x_1, times, process, sample_noise)
    return torch.stack([*visited, x_0])


def diffusers_trajectory(scheduler, x_1, generator=None, **options):
    """The same by a scheduler of diffusers whose timesteps are set."""
    visited, x_t = [], x_1
    if generator is not None:
        options["generator"] = generator
    for t in scheduler.timesteps:
        visited.append(x_t)
        x_t = scheduler.step(network(x_t, t.item()), t, x_t, **options).prev_sample.double()
    return torch.stack([*visited, x_t])


def relative_error(trajectory, reference):
    """The largest difference, relative to the largest value of the reference."""
    assert trajectory.shape == reference.shape
    return (trajectory - reference).abs().max() / reference.abs().max()


def ddpm(schedule, prediction="eps", timesteps=1000):
    betas = dict(zip(("linear_start", "linear_end"), BETAS[schedule], strict=False))
    return build_process("ddpm", {"schedule": schedule, "prediction": prediction, "timesteps": timesteps, **betas})


def build_scheduler(kind, schedule, prediction="eps", timesteps=1000, exact=True, **options):
    betas = dict(zip(("beta_start", "beta_end"), BETAS[schedule], strict=False))
    names = {
        "beta_schedule": DIFFUSERS_NAMES.get(schedule, schedule),
        "prediction_type": DIFFUSERS_NAMES[prediction],
    }
    clip = {} if kind is DPMSolverMultistepScheduler else {"clip_sample": False}
    scheduler = kind(num_train_timesteps=timesteps, **names, **betas, **clip, **options)
    return with_double_betas(scheduler) if exact else scheduler


def with_double_betas(scheduler):
    """Double precision as in dsdiff: in single precision, eta 1 subtracts numbers that differ only by rounding."""
    name, T = scheduler.config.beta_schedule, scheduler.config.num_train_timesteps
    beta_start, beta_end = scheduler.config.beta_start, scheduler.config.beta_end
    if name == "squaredcos_cap_v2":
        alpha_bar = [np.cos((i / T + 0.008) / 1.008 * np.pi / 2) ** 2 for i in range(T + 1)]
        betas = [min(1 - b / a, 0.999) for a, b in pairwise(alpha_bar)]
    elif name == "linear":
        betas = np.linspace(beta_start, beta_end, T)
    else:
        betas = np.linspace(beta_start**0.5, beta_end**0.5, T) ** 2
    scheduler.alphas_cumprod = torch.from_numpy(np.cumprod(1 - np.array(betas)))
    return scheduler


@pytest.mark.parametrize("timesteps", [1000, 2000])
@pytest.mark.parametrize("schedule", BETAS)
def test_alpha_bar_matches_diffusers(schedule, timesteps):
    """Single precision leaves the cosine of diffusers few digits at its end, where betas are near 1."""
    alpha_bar = ddpm(schedule, timesteps=timesteps).alpha_bar
    single, double = (
        build_scheduler(DDPMScheduler, schedule, timesteps=timesteps, exact=exact).alphas_cumprod
        for exact in (False, True)
    )
    assert alpha_bar[0] == 1
    assert torch.allclose(alpha_bar[1:], double, rtol=1e-9)
    assert torch.allclose(alpha_bar[1:], single.double(), rtol=5e-6 if schedule != "cosine" else 5e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [2, 7, 20, 1000])
def test_time_grid_visits_the_timesteps_of_diffusers(spacing, steps):
    scheduler = build_scheduler(DDPMScheduler, "linear", timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    process = ddpm("linear")
    timesteps = process.timestep(torch.tensor(process.time_grid(steps, spacing)))
    assert timesteps.tolist() == [*scheduler.timesteps.tolist(), -1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
def test_x_t_and_target_match_diffusers(schedule, prediction):
    scheduler, process = build_scheduler(DDPMScheduler, schedule), ddpm(schedule, prediction)
    sample_noise = noise_source()
    x_0, noise, steps = sample_noise(), sample_noise(), torch.tensor([3, 700])
    time = (steps + 1) / 1000
    x_t = process.compute_x_t(x_0, x_0, time, noise)
    assert relative_error(x_t, scheduler.add_noise(x_0, noise, steps)) < TOLERANCE

    target = process.target(x_0, x_0, time, noise)
    expected = {"eps": noise, "v": scheduler.get_velocity(x_0, noise, steps), "x_0": x_0}[prediction]
    assert relative_error(target, expected) < TOLERANCE
    assert relative_error(process.x_0(target, x_t, time), x_0) < TOLERANCE


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
def test_ancestral_matches_diffusers(schedule, prediction, spacing):
    process = ddpm(schedule, prediction)
    scheduler = build_scheduler(DDPMScheduler, schedule, prediction, timestep_spacing=spacing)
    x_1 = noise_source(1)()
    for steps in (7, 50):
        scheduler.set_timesteps(steps)
        expected = diffusers_trajectory(scheduler, x_1, torch.Generator().manual_seed(2))
        times = process.time_grid(steps, spacing)
        trajectory = sampler_trajectory(process, samplers.ancestral, times, x_1, noise_source(2))
        assert relative_error(trajectory, expected) < TOLERANCE


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
def test_ddim_matches_diffusers(schedule, prediction, spacing, eta):
    """With linspace, the DDIM of diffusers steps to levels that it does not visit next; see the test below."""
    process, x_1 = ddpm(schedule, prediction), noise_source(1)()
    scheduler = build_scheduler(DDIMScheduler, schedule, prediction, timestep_spacing=spacing)
    scheduler.set_timesteps(20)
    expected = diffusers_trajectory(scheduler, x_1, torch.Generator().manual_seed(2), eta=eta)

    def sample(*arguments):
        return samplers.ddim(*arguments, eta=eta)

    trajectory = sampler_trajectory(process, sample, process.time_grid(20, spacing), x_1, noise_source(2))
    assert relative_error(trajectory, expected) < TOLERANCE


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
def test_ddim_with_linspace_matches_first_order_dpm_solver(schedule, prediction):
    """DDIM is DPM-Solver++ of first order (Lu et al. 2022, arXiv:2211.01095, section 4)."""
    process, x_1 = ddpm(schedule, prediction), noise_source(1)()
    times = process.time_grid(20, "linspace")
    scheduler = build_scheduler(DPMSolverMultistepScheduler, schedule, prediction, solver_order=1)
    scheduler.set_timesteps(timesteps=process.timestep(torch.tensor(times[:-1])).long().tolist())
    trajectory = sampler_trajectory(process, samplers.ddim, times, x_1)
    assert relative_error(trajectory, diffusers_trajectory(scheduler, x_1)) < TOLERANCE


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
def test_dpmpp_2m_matches_diffusers(schedule, prediction, spacing):
    """In dsdiff, leading and linspace are the grids of DDPM and DDIM for every sampler: diffusers receives them."""
    process, x_1 = ddpm(schedule, prediction), noise_source(1)()
    scheduler = build_scheduler(DPMSolverMultistepScheduler, schedule, prediction, timestep_spacing=spacing)
    for steps in (1, 2, 7, 40) if spacing == "trailing" else (2, 7, 40):
        times = process.time_grid(steps, spacing)
        if spacing == "trailing":
            scheduler.set_timesteps(num_inference_steps=steps)
        else:
            scheduler.set_timesteps(timesteps=process.timestep(torch.tensor(times[:-1])).long().tolist())
        trajectory = sampler_trajectory(process, samplers.dpmpp_2m, times, x_1)
        assert relative_error(trajectory, diffusers_trajectory(scheduler, x_1)) < TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_euler_matches_diffusers(spacing, steps):
    process, x_1 = build_process("flow", {}), noise_source(1)()
    scheduler = FlowMatchEulerDiscreteScheduler()
    trailing = {"sigmas": np.linspace(1, 1 / steps, steps)} if spacing == "trailing" else {}
    scheduler.set_timesteps(steps, **trailing)
    trajectory = sampler_trajectory(process, samplers.euler, uniform_time_grid(steps, spacing), x_1)
    assert relative_error(trajectory, diffusers_trajectory(scheduler, x_1)) < TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_heun_matches_diffusers(steps):
    process, x_1 = build_process("flow", {}), noise_source(1)()
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    expected = diffusers_trajectory(scheduler, x_1)
    trajectory = sampler_trajectory(process, samplers.heun, uniform_time_grid(steps, "linspace"), x_1)
    assert relative_error(trajectory, expected) < TOLERANCE
