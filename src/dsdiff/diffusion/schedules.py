"""Schedules of the betas of a DDPM, in the field's names."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

MOST = 0.999  # of a beta of the cosine schedule, which would end with 1

Schedule = Callable[[float, float, int], Float[Tensor, " T"]]  # (beta_start, beta_end, timesteps) -> betas


def linear(beta_start: float, beta_end: float, timesteps: int) -> Float[Tensor, " T"]:
    """Betas at equal distances. Source: Ho et al. 2020 (arXiv:2006.11239, section 4)."""
    return torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)


def scaled_linear(beta_start: float, beta_end: float, timesteps: int) -> Float[Tensor, " T"]:
    """Square roots of the betas at equal distances, which latent diffusion calls "linear".

    Source: Rombach et al. 2022 (arXiv:2112.10752); the name is diffusers'.
    """
    return linear(beta_start**0.5, beta_end**0.5, timesteps).square()


def cosine(beta_start: float, beta_end: float, timesteps: int) -> Float[Tensor, " T"]:
    """Betas whose alpha_bar is a squared cosine; it has no ends to set.

    Source: Nichol and Dhariwal 2021 (arXiv:2102.09672, eq. 17).
    """
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    alpha_bar = ((t + 0.008) / 1.008 * torch.pi / 2).cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=MOST)


SCHEDULES: dict[str, Schedule] = {"linear": linear, "scaled_linear": scaled_linear, "cosine": cosine}
