import pytest
import torch

from dsdiff.diffusion import samplers
from dsdiff.diffusion.process import uniform_time_grid
from dsdiff.diffusion.registry import build_process
from dsdiff.errors import ConfigError


def noise_source(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(20000, 1, 1, 1, generator=generator)


def no_noise():
    raise AssertionError("one step must not ask for noise")


def test_x_t_has_the_mean_and_variance_of_the_bridge():
    bridge = build_process("bridge", {"sigma": 0.5})
    n = 200_000
    x_0, source = torch.full((n, 1, 1, 1), 2.0), torch.full((n, 1, 1, 1), -1.0)
    noise = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    for t in (0.0, 0.3, 1.0):
        x_t = bridge.compute_x_t(x_0, source, torch.full((n,), t), noise)
        assert x_t.mean().item() == pytest.approx(2 - 3 * t, abs=5e-3)
        assert x_t.var().item() == pytest.approx(0.25 * t * (1 - t), abs=2e-3)


def test_one_step_returns_the_mean_of_the_denoiser():
    bridge = build_process("bridge", {"sigma": 0.5})
    source = torch.randn(2, 1, 4, 4)
    x_0 = samplers.bridge(lambda x_t, t: x_t + 3, source, uniform_time_grid(1, "trailing"), bridge, no_noise)
    assert torch.equal(x_0, source + 3)


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_constant_denoiser_is_reached_with_the_marginals_of_the_bridge(steps):
    bridge, sample_noise = build_process("bridge", {"sigma": 0.7}), noise_source()
    source = torch.full((20000, 1, 1, 1), 4.0)
    moments = {}

    def denoise(x_t, t):
        moments[round(t, 6)] = (x_t.mean().item(), x_t.var().item())
        return torch.full_like(x_t, 1.0)

    times = uniform_time_grid(steps, "trailing")
    assert torch.allclose(samplers.bridge(denoise, source, times, bridge, sample_noise), torch.tensor(1.0))
    for t, (mean, variance) in moments.items():
        assert mean == pytest.approx(1 + 3 * t, abs=0.02)
        assert variance == pytest.approx(0.49 * t * (1 - t), abs=0.01)


def test_bridge_samples_of_gaussian_data_have_its_moments():
    """x_0 ~ N(1, 0.6^2) with source image 0: the exact denoiser is linear, and samples have the moments of the data."""
    sigma, std = 1.0, 0.6
    bridge, sample_noise = build_process("bridge", {"sigma": sigma}), noise_source(1)

    def denoise(x_t, t):
        noise_variance = sigma**2 * t * (1 - t)
        weight = std**2 * (1 - t) / (std**2 * (1 - t) ** 2 + noise_variance) if t < 1 else 0.0
        return 1 + weight * (x_t - (1 - t))

    source, times = torch.zeros(20000, 1, 1, 1), uniform_time_grid(400, "trailing")
    x_0 = samplers.bridge(denoise, source, times, bridge, sample_noise)
    assert x_0.mean().item() == pytest.approx(1, abs=0.02)
    assert x_0.std().item() == pytest.approx(std, abs=0.02)


def test_start_fraction_of_training_times_is_exactly_1():
    bridge = build_process("bridge", {"start_fraction": 0.25})
    times = bridge.sample_times(20000, torch.Generator().manual_seed(0))
    assert (times == 1).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert times[times < 1].mean().item() == pytest.approx(0.5, abs=0.01)


def test_unknown_process_and_setting_raise():
    with pytest.raises(ConfigError, match="'brigde' is unknown; there are: bridge"):
        build_process("brigde", {})
    with pytest.raises(ConfigError, match="sigmaa"):
        build_process("bridge", {"sigmaa": 1})
