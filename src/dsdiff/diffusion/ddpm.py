"""DDPM: from Gaussian noise to the T1ce along a discrete schedule; the network tells the noise, v or x_0."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import AliasChoices, ConfigDict, Field, model_validator
from torch import Tensor

from dsdiff.diffusion.process import Image, NoiseProcess, Spacing, Times, along, drawn_among
from dsdiff.diffusion.schedules import SCHEDULES
from dsdiff.errors import ConfigError
from dsdiff.schema import ConfigModel


class DDPMParams(ConfigModel):
    """The field's vocabulary; latent diffusion's linear_start and linear_end are beta_start and beta_end.

    `scale`: what robust z-scores are divided by, so that the data have about unit variance as the schedules expect
    (the standard deviation of T1ce in the brain is 1.0 to 1.7).
    `train_steps`: see `NoiseProcess`.
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
    def _betas_rise(self) -> "DDPMParams":
        if self.schedule == "cosine" and self.model_fields_set & {"beta_start", "beta_end"}:
            raise ValueError("schedule 'cosine' has no beta_start and no beta_end; leave them out")
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start {self.beta_start} is above beta_end {self.beta_end}")
        return self


class DDPM(NoiseProcess):
    """x_t = alpha_t x_0 + sigma_t eps with alpha_t^2 + sigma_t^2 = 1; time (i + 1) / timesteps is the field's step i.

    Source: Ho et al. 2020 (arXiv:2006.11239, eq. 4); v = alpha_t eps - sigma_t x_0 after Salimans and Ho 2022
    (arXiv:2202.00512, appendix D).
    """

    Params = DDPMParams
    samplers = ("ddim", "dpmpp_2m", "ancestral")

    def __init__(self, params: DDPMParams) -> None:
        self.timesteps, self.prediction = params.timesteps, params.prediction
        self.scale, self.train_steps = params.scale, params.train_steps
        betas = SCHEDULES[params.schedule](params.beta_start, params.beta_end, params.timesteps)
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])  # of time 0, 1/T .. 1

    def alpha_sigma(self, time: Float[Tensor, " k"]) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
        """What x_0 and the noise are multiplied by at these times."""
        alpha_bar = self.alpha_bar[(time * self.timesteps).round().long()]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def draw_times(self, batch: int, generator: torch.Generator) -> Times:
        if self.train_steps:
            return drawn_among(self.times(self.train_steps, "trailing"), batch, generator)
        return (torch.randint(self.timesteps, (batch,), generator=generator) + 1) / self.timesteps

    def timestep(self, time: Times) -> Times:
        """The field's integer step, 0 to timesteps - 1."""
        return (time * self.timesteps).round() - 1

    def q_sample(self, x_0: Image, start: Image, time: Times, noise: Image) -> Image:
        alpha, sigma = (along(level, x_0) for level in self.alpha_sigma(time))
        return alpha * x_0 + sigma * noise

    def target(self, x_0: Image, start: Image, time: Times, noise: Image) -> Image:
        alpha, sigma = (along(level, x_0) for level in self.alpha_sigma(time))
        return {"eps": noise, "v": alpha * noise - sigma * x_0, "x_0": x_0}[self.prediction]

    def x_0(self, predicted: Image, x_t: Image, time: Times) -> Image:
        alpha, sigma = (along(level, x_t) for level in self.alpha_sigma(time))
        if self.prediction == "eps":
            return (x_t - sigma * predicted) / alpha
        return alpha * x_t - sigma * predicted if self.prediction == "v" else predicted

    def times(self, steps: int, spacing: Spacing) -> list[float]:
        """Source: Lin et al. 2024 (arXiv:2305.08891, table 2), counted from 0 as diffusers does."""
        T = self.timesteps
        if steps > T:
            raise ConfigError(f"{steps} steps are more than the {T} timesteps of process 'ddpm'")
        if steps == 1 < T and spacing != "trailing":
            raise ConfigError(f"one step of spacing '{spacing}' visits step 0 alone, never the noise; take trailing")
        if spacing == "trailing":
            visited = [round(T - k * (T / steps)) - 1 for k in range(steps)]
        elif spacing == "leading":
            visited = [k * (T // steps) for k in reversed(range(steps))]
        else:
            visited = [round(k * ((T - 1) / max(1, steps - 1))) for k in reversed(range(steps))]
        return [(step + 1) / T for step in visited] + [0.0]
