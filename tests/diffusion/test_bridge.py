import pytest
import torch

from dsdiff.diffusion import samplers
from dsdiff.diffusion.process import even_times
from dsdiff.diffusion.registry import build_process
from dsdiff.errors import ConfigError


def gaussians(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(20000, 1, 1, 1, generator=generator)


def test_q_sample_has_the_bridges_mean_and_variance():
    bridge = build_process("bridge", {"sigma": 0.5})
    n = 200_000
    x_0, start = torch.full((n, 1, 1, 1), 2.0), torch.full((n, 1, 1, 1), -1.0)
    noise = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    for t in (0.0, 0.3, 1.0):
        x_t = bridge.q_sample(x_0, start, torch.full((n,), t), noise)
        assert x_t.mean().item() == pytest.approx(2 - 3 * t, abs=5e-3)
        assert x_t.var().item() == pytest.approx(0.25 * t * (1 - t), abs=2e-3)


def test_one_step_is_the_denoisers_mean():
    bridge = build_process("bridge", {"sigma": 0.5})
    start = torch.randn(2, 1, 4, 4)
    found = samplers.bridge(lambda x_t, t: x_t + 3, start, even_times(1, "trailing"), bridge, lambda: 1 / 0)
    assert torch.equal(found, start + 3)


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_with_a_known_answer_every_path_ends_there_and_has_the_bridges_marginals(steps):
    bridge, noise = build_process("bridge", {"sigma": 0.7}), gaussians()
    start = torch.full((20000, 1, 1, 1), 4.0)
    seen = {}

    def denoise(x_t, t):
        seen[round(t, 6)] = (x_t.mean().item(), x_t.var().item())
        return torch.full_like(x_t, 1.0)

    times = even_times(steps, "trailing")
    assert torch.allclose(samplers.bridge(denoise, start, times, bridge, noise), torch.tensor(1.0))
    for t, (mean, variance) in seen.items():
        assert mean == pytest.approx(1 + 3 * t, abs=0.02)
        assert variance == pytest.approx(0.49 * t * (1 - t), abs=0.01)


def test_gaussian_data_is_sampled_with_its_variance():
    """x_0 ~ N(1, 0.6^2) given the start 0: the exact denoiser is linear, and samples have the data's moments."""
    sigma, spread = 1.0, 0.6
    bridge, noise = build_process("bridge", {"sigma": sigma}), gaussians(1)

    def denoise(x_t, t):
        noise_variance = sigma**2 * t * (1 - t)
        weight = spread**2 * (1 - t) / (spread**2 * (1 - t) ** 2 + noise_variance) if t < 1 else 0.0
        return 1 + weight * (x_t - (1 - t))

    found = samplers.bridge(denoise, torch.zeros(20000, 1, 1, 1), even_times(400, "trailing"), bridge, noise)
    assert found.mean().item() == pytest.approx(1, abs=0.02)
    assert found.std().item() == pytest.approx(spread, abs=0.02)


def test_times_are_drawn_at_the_start_at_their_share():
    bridge = build_process("bridge", {"start_fraction": 0.25})
    times = bridge.draw_times(20000, torch.Generator().manual_seed(0))
    assert (times == 1).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert times[times < 1].mean().item() == pytest.approx(0.5, abs=0.01)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="'brigde' is unknown; there are: bridge"):
        build_process("brigde", {})
    with pytest.raises(ConfigError, match="sigmaa"):
        build_process("bridge", {"sigmaa": 1})
