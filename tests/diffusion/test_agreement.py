"""Whole trajectories beside those of diffusers, with a denoiser that is fixed and not linear."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch

from dsdiff.diffusion import samplers
from dsdiff.diffusion.process import even_times
from dsdiff.diffusion.registry import build_process

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # diffusers warns of its own imports
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
    )

SHAPE = (2, 1, 5, 4)
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": ()}
NAMES = {"cosine": "squaredcos_cap_v2", "eps": "epsilon", "v": "v_prediction", "x_0": "sample"}
PREDICTIONS, SPACINGS = ("eps", "v", "x_0"), ("leading", "trailing", "linspace")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
TOLERANCE = 2e-6  # of the largest value of the trajectory


def network(x_t, t):
    """What a network might say, at the field's timestep t (a continuous time is told on the same scale)."""
    return torch.tanh(1.3 * x_t + 0.3 * np.sin(t / 90)) + 0.2 * x_t.roll(1, -1)


def gaussians(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def ours(process, sample, times, begin, noise=None):
    """The x_t that a sampler asks the network about, and its answer."""
    seen = []

    def denoise(x_t, time):
        seen.append(x_t)
        t = torch.full((len(x_t),), time, dtype=torch.float64)
        return process.x_0(network(x_t, process.timestep(t)[0].item()), x_t, t)

    end = sample(denoise, begin, times, process, noise or (lambda: 1 / 0))
    return torch.stack([*seen, end])


def theirs(scheduler, begin, generator=None, **options):
    """The same from a scheduler of diffusers, with its timesteps set."""
    seen, x_t = [], begin
    if generator is not None:
        options["generator"] = generator
    for t in scheduler.timesteps:
        seen.append(x_t)
        x_t = scheduler.step(network(x_t, t.item()), t, x_t, **options).prev_sample.double()
    return torch.stack([*seen, x_t])


def apart(a, b):
    """The largest difference of two trajectories, in parts of the largest value of the second."""
    assert a.shape == b.shape
    return (a - b).abs().max() / b.abs().max()


def ddpm(schedule, prediction="eps", timesteps=1000):
    betas = dict(zip(("linear_start", "linear_end"), BETAS[schedule], strict=False))
    return build_process("ddpm", {"schedule": schedule, "prediction": prediction, "timesteps": timesteps, **betas})


def scheduler_of(kind, schedule, prediction="eps", timesteps=1000, exact=True, **options):
    betas = dict(zip(("beta_start", "beta_end"), BETAS[schedule], strict=False))
    names = {"beta_schedule": NAMES.get(schedule, schedule), "prediction_type": NAMES[prediction]}
    clip = {} if kind is DPMSolverMultistepScheduler else {"clip_sample": False}
    scheduler = kind(num_train_timesteps=timesteps, **names, **betas, **clip, **options)
    return in_double(scheduler) if exact else scheduler


def in_double(scheduler):
    """Its betas in double precision, as ours: in single, eta 1 subtracts numbers that are equal but for rounding."""
    name, T = scheduler.config.beta_schedule, scheduler.config.num_train_timesteps
    start, end = scheduler.config.beta_start, scheduler.config.beta_end
    if name == "squaredcos_cap_v2":
        alpha_bar = [np.cos((i / T + 0.008) / 1.008 * np.pi / 2) ** 2 for i in range(T + 1)]
        betas = [min(1 - b / a, 0.999) for a, b in pairwise(alpha_bar)]
    else:
        betas = np.linspace(start, end, T) if name == "linear" else np.linspace(start**0.5, end**0.5, T) ** 2
    scheduler.alphas_cumprod = torch.from_numpy(np.cumprod(1 - np.array(betas)))
    return scheduler


@pytest.mark.parametrize("timesteps", [1000, 2000])
@pytest.mark.parametrize("schedule", BETAS)
def test_schedules(schedule, timesteps):
    """Single precision leaves diffusers' own cosine few digits at its end, where betas are near 1."""
    found = ddpm(schedule, timesteps=timesteps).alpha_bar
    single, double = (
        scheduler_of(DDPMScheduler, schedule, timesteps=timesteps, exact=exact).alphas_cumprod
        for exact in (False, True)
    )
    assert found[0] == 1
    assert torch.allclose(found[1:], double, rtol=1e-9)
    assert torch.allclose(found[1:], single.double(), rtol=5e-6 if schedule != "cosine" else 5e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [2, 7, 20, 1000])
def test_the_same_timesteps_are_visited(spacing, steps):
    scheduler = scheduler_of(DDPMScheduler, "linear", timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    process = ddpm("linear")
    found = process.timestep(torch.tensor(process.times(steps, spacing)))
    assert found.tolist() == [*scheduler.timesteps.tolist(), -1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
def test_noising_and_velocity(schedule, prediction):
    scheduler, process, draw = scheduler_of(DDPMScheduler, schedule), ddpm(schedule, prediction), gaussians()
    x_0, noise, steps = draw(), draw(), torch.tensor([3, 700])
    time = (steps + 1) / 1000
    x_t = process.q_sample(x_0, x_0, time, noise)
    assert apart(x_t, scheduler.add_noise(x_0, noise, steps)) < TOLERANCE
    target = process.target(x_0, x_0, time, noise)
    assert (
        apart(target, {"eps": noise, "v": scheduler.get_velocity(x_0, noise, steps), "x_0": x_0}[prediction])
        < TOLERANCE
    )
    assert apart(process.x_0(target, x_t, time), x_0) < TOLERANCE


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
def test_ancestral(schedule, prediction, spacing):
    process, scheduler = (
        ddpm(schedule, prediction),
        scheduler_of(DDPMScheduler, schedule, prediction, timestep_spacing=spacing),
    )
    begin = gaussians(1)()
    for steps in (7, 50):
        scheduler.set_timesteps(steps)
        expected = theirs(scheduler, begin, torch.Generator().manual_seed(2))
        assert (
            apart(ours(process, samplers.ancestral, process.times(steps, spacing), begin, gaussians(2)), expected)
            < TOLERANCE
        )


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
def test_ddim(schedule, prediction, spacing, eta):
    """In linspace diffusers' DDIM steps to levels that it does not visit next; see `test_ddim_in_linspace`."""
    process, begin = ddpm(schedule, prediction), gaussians(1)()
    scheduler = scheduler_of(DDIMScheduler, schedule, prediction, timestep_spacing=spacing)
    scheduler.set_timesteps(20)
    expected = theirs(scheduler, begin, torch.Generator().manual_seed(2), eta=eta)

    def sample(*given):
        return samplers.ddim(*given, eta=eta)

    assert apart(ours(process, sample, process.times(20, spacing), begin, gaussians(2)), expected) < TOLERANCE


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
def test_ddim_in_linspace(schedule, prediction):
    """DDIM is DPM-Solver++ of first order (Lu et al. 2022, arXiv:2211.01095, section 4)."""
    process, begin = ddpm(schedule, prediction), gaussians(1)()
    times = process.times(20, "linspace")
    scheduler = scheduler_of(DPMSolverMultistepScheduler, schedule, prediction, solver_order=1)
    scheduler.set_timesteps(timesteps=process.timestep(torch.tensor(times[:-1])).long().tolist())
    assert apart(ours(process, samplers.ddim, times, begin), theirs(scheduler, begin)) < TOLERANCE


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", BETAS)
def test_dpmpp_2m(schedule, prediction, spacing):
    """leading and linspace mean one grid for all our samplers, that of DDPM and DDIM: diffusers is given it."""
    process, begin = ddpm(schedule, prediction), gaussians(1)()
    scheduler = scheduler_of(DPMSolverMultistepScheduler, schedule, prediction, timestep_spacing=spacing)
    for steps in (1, 2, 7, 40) if spacing == "trailing" else (2, 7, 40):
        times = process.times(steps, spacing)
        visited = process.timestep(torch.tensor(times[:-1])).long().tolist()
        scheduler.set_timesteps(**({"num_inference_steps": steps} if spacing == "trailing" else {"timesteps": visited}))
        assert apart(ours(process, samplers.dpmpp_2m, times, begin), theirs(scheduler, begin)) < TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_euler(spacing, steps):
    process, begin, scheduler = build_process("flow", {}), gaussians(1)(), FlowMatchEulerDiscreteScheduler()
    trailing = {"sigmas": np.linspace(1, 1 / steps, steps)} if spacing == "trailing" else {}
    scheduler.set_timesteps(steps, **trailing)
    assert apart(ours(process, samplers.euler, even_times(steps, spacing), begin), theirs(scheduler, begin)) < TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_heun(steps):
    process, begin, scheduler = build_process("flow", {}), gaussians(1)(), FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    expected = theirs(scheduler, begin)
    found = ours(process, samplers.heun, even_times(steps, "linspace"), begin)
    assert apart(found, expected) < TOLERANCE
