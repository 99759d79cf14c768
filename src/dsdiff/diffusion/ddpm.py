"""DDPM: from Gaussian noise to the T1ce along a discrete schedule; the network predicts the noise, v or x_0."""

from typing import Literal

import torch
from jaxtyping import Float, Integer
from pydantic import AliasChoices, ConfigDict, Field, model_validator
from torch import Tensor

from dsdiff.diffusion.process import (
    ImageBatch,
    NoiseProcess,
    Times,
    TimestepSpacing,
    expand_like,
    sample_from_grid,
)
from dsdiff.diffusion.schedules import SCHEDULES
from dsdiff.errors import ConfigError, InputError
from dsdiff.schema import ConfigModel

Timesteps = Integer[Tensor, " b"]


class DDPMParams(ConfigModel):
    """Settings of a DDPM. Latent diffusion's linear_start and linear_end are beta_start and beta_end.

    Attributes:
        schedule: Schedule of the betas, see `schedules`.
        beta_start: First beta; not for the cosine schedule.
        beta_end: Last beta; not for the cosine schedule.
        timesteps: Number of betas.
        prediction: What the network predicts: eps (the noise), v or x_0.
        scale: Divisor of the robust z-scores, so that images have about unit variance as the schedules expect.
            The standard deviation of T1ce in the brain is 1.0 to 1.7.
        train_steps: See `NoiseProcess`.
    """

    model_config = ConfigDict(populate_by_name=True)

    schedule: Literal["linear", "scaled_linear", "cosine"] = "linear"
    beta_start: float = Field(1e-4, gt=0, lt=1, validation_alias=AliasChoices("beta_start", "linear_start"))
    beta_end: float = Field(0.02, gt=0, lt=1, validation_alias=AliasChoices("beta_end", "linear_end"))
    timesteps: int = Field(1000, ge=1)
    prediction: Literal["eps", "v", "x_0"] = "eps"
    scale: float = Field(1.25, gt=0)
    train_steps: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check_betas(self) -> "DDPMParams":
        if self.schedule == "cosine" and self.model_fields_set & {"beta_start", "beta_end"}:
            raise ValueError("schedule 'cosine' has no beta_start and no beta_end; leave them out")
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start {self.beta_start} is above beta_end {self.beta_end}")
        return self


class DDPM(NoiseProcess):
    """x_t = alpha_t x_0 + sigma_t eps with alpha_t^2 + sigma_t^2 = 1. Time (i + 1) / timesteps is the usual step i.

    Source: Ho et al. 2020 (arXiv:2006.11239, eq. 4); v = alpha_t eps - sigma_t x_0 after Salimans and Ho 2022
    (arXiv:2202.00512, appendix D).
    """

    Params = DDPMParams
    samplers = ("ddim", "dpmpp_2m", "ancestral")

    def __init__(self, params: DDPMParams) -> None:
        self.timesteps = params.timesteps
        self.prediction_type = params.prediction
        self.scale = params.scale
        self.train_steps = params.train_steps
        betas = SCHEDULES[params.schedule](params.beta_start, params.beta_end, params.timesteps)
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])  # times 0, 1/T .. 1

    def alpha_sigma(self, time: Float[Tensor, " k"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """Look up the factors of x_0 and of the noise in x_t.

        Args:
            time: Times in [0, 1].

        Returns:
            alpha_t and sigma_t in double precision.
        """
        alpha_bar = self.alpha_bar[(time * self.timesteps).round().long()]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def sample_times(self, batch: int, generator: torch.Generator) -> Times:
        if self.train_steps:
            return sample_from_grid(self.time_grid(self.train_steps, "trailing"), batch, generator)
        return (torch.randint(self.timesteps, (batch,), generator=generator) + 1) / self.timesteps

    def timestep(self, time: Times) -> Times:
        """Convert times to the usual integer steps.

        Args:
            time: Times in (0, 1].

        Returns:
            Steps from 0 to timesteps - 1.
        """
        return (time * self.timesteps).round() - 1

    def compute_x_t(self, x_0: ImageBatch, source: ImageBatch, time: Times, noise: ImageBatch) -> ImageBatch:
        alpha, sigma = (expand_like(level, x_0) for level in self.alpha_sigma(time))
        return alpha * x_0 + sigma * noise

    def q_sample(self, x_0: ImageBatch, t: Timesteps, noise: ImageBatch) -> ImageBatch:
        """Add noise at integer timesteps, as the field writes it. Other processes have `compute_x_t` only.

        Args:
            x_0: Clean images.
            t: One timestep from 0 to timesteps - 1 per image.
            noise: Standard normal noise eps.

        Returns:
            x_t.

        Raises:
            InputError: A timestep is out of range.
        """
        return self.compute_x_t(x_0, x_0, self._to_time(t), noise)

    def training_target(self, x_0: ImageBatch, t: Timesteps, noise: ImageBatch) -> ImageBatch:
        """Compute what the network should predict from the x_t of `q_sample`.

        Args:
            x_0: Clean images.
            t: One timestep from 0 to timesteps - 1 per image.
            noise: The noise of `q_sample`.

        Returns:
            eps, v or x_0, as `prediction` says.

        Raises:
            InputError: A timestep is out of range.
        """
        return self.target(x_0, x_0, self._to_time(t), noise)

    def _to_time(self, t: Timesteps) -> Times:
        steps = t.cpu()
        if steps.min() < 0 or steps.max() >= self.timesteps:
            raise InputError(
                f"timesteps {steps.tolist()} are not all from 0 to {self.timesteps - 1}; see process.params.timesteps"
            )
        return (steps + 1) / self.timesteps

    def target(self, x_0: ImageBatch, source: ImageBatch, time: Times, noise: ImageBatch) -> ImageBatch:
        alpha, sigma = (expand_like(level, x_0) for level in self.alpha_sigma(time))
        return {"eps": noise, "v": alpha * noise - sigma * x_0, "x_0": x_0}[self.prediction_type]

    def x_0(self, prediction: ImageBatch, x_t: ImageBatch, time: Times) -> ImageBatch:
        alpha, sigma = (expand_like(level, x_t) for level in self.alpha_sigma(time))
        if self.prediction_type == "eps":
            return (x_t - sigma * prediction) / alpha
        if self.prediction_type == "v":
            return alpha * x_t - sigma * prediction
        return prediction

    def time_grid(self, steps: int, spacing: TimestepSpacing) -> list[float]:
        """List the times that sampling visits, on the grid of the schedule.

        Source: Lin et al. 2024 (arXiv:2305.08891, table 2), counted from 0 as in diffusers.

        Args:
            steps: Number of steps, from 1 to timesteps.
            spacing: How the times are spaced.

        Returns:
            `steps` + 1 times, falling, the last one 0.

        Raises:
            ConfigError: The schedule has fewer timesteps, or a single step would not visit the noise.
        """
        T = self.timesteps
        if steps > T:
            raise ConfigError(f"{steps} steps are more than the {T} timesteps of process 'ddpm'; use at most {T}")
        if steps == 1 < T and spacing != "trailing":
            raise ConfigError(f"one step of spacing '{spacing}' visits only step 0, never the noise; use trailing")

        if spacing == "trailing":
            visited_steps = [round(T - k * (T / steps)) - 1 for k in range(steps)]
        elif spacing == "leading":
            visited_steps = [k * (T // steps) for k in reversed(range(steps))]
        else:
            visited_steps = [round(k * ((T - 1) / max(1, steps - 1))) for k in reversed(range(steps))]
        return [(step + 1) / T for step in visited_steps] + [0.0]
