"""Schedules of the betas of a DDPM, with their usual names."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

MAX_BETA = 0.999  # of the cosine schedule, whose last beta would be 1

Schedule = Callable[[float, float, int], Float[Tensor, " T"]]  # (beta_start, beta_end, timesteps) -> betas


def linear(beta_start: float, beta_end: float, timesteps: int) -> Float[Tensor, " T"]:
    """Space the betas equally.

    Source: Ho et al. 2020 (arXiv:2006.11239, section 4).

    Args:
        beta_start: First beta, in (0, 1).
        beta_end: Last beta, in (0, 1).
        timesteps: Number of betas.

    Returns:
        Betas in double precision.
    """
    return torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)


def scaled_linear(beta_start: float, beta_end: float, timesteps: int) -> Float[Tensor, " T"]:
    """Space the square roots of the betas equally. Latent diffusion calls this schedule "linear".

    Source: Rombach et al. 2022 (arXiv:2112.10752); the name is the one of diffusers.

    Args:
        beta_start: First beta, in (0, 1).
        beta_end: Last beta, in (0, 1).
        timesteps: Number of betas.

    Returns:
        Betas in double precision.
    """
    return linear(beta_start**0.5, beta_end**0.5, timesteps).square()


def cosine(beta_start: float, beta_end: float, timesteps: int) -> Float[Tensor, " T"]:
    """Choose the betas so that alpha_bar is a squared cosine.

    Source: Nichol and Dhariwal 2021 (arXiv:2102.09672, eq. 17).

    Args:
        beta_start: Not used: this schedule has no ends to set.
        beta_end: Not used.
        timesteps: Number of betas.

    Returns:
        Betas in double precision.
    """
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    alpha_bar = ((t + 0.008) / 1.008 * torch.pi / 2).cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=MAX_BETA)


SCHEDULES: dict[str, Schedule] = {"linear": linear, "scaled_linear": scaled_linear, "cosine": cosine}
