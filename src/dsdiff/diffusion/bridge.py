"""The residual bridge: from the pre-contrast image to the T1ce, the shipped model's process."""

import torch
from pydantic import Field

from dsdiff.diffusion.process import Image, Residual, Times, along, drawn_among
from dsdiff.schema import ConfigModel

SAMPLING_STEPS = 4  # where samples are wanted: one step has no randomness


class ResidualBridgeParams(ConfigModel):
    """`sigma`: standard deviation scale of the bridge, in robust z-scores. `start_fraction`: of the training times, how
    many are exactly 1, which is all that one-step synthesis uses. `train_steps`, `spread`: see `NoiseProcess`."""

    sigma: float = Field(0.5, ge=0)
    start_fraction: float = Field(0.5, ge=0, le=1)
    train_steps: int | None = Field(None, ge=1)
    predict_error: bool = False


class ResidualBridge(Residual):
    """A Brownian bridge from the pre-contrast image (time 1) to the T1ce (time 0); the network predicts x_0 - start.

    x_t = (1 - t) x_0 + t x_1 + sigma sqrt(t (1 - t)) eps.
    Source: Brownian bridges between images after Li et al. 2023 (BBDM, arXiv:2205.07680, eq. 4) and Liu et al. 2023
    (I2SB, arXiv:2302.05872); x_0 prediction as in docs/diffusion.md.
    """

    Params = ResidualBridgeParams
    samplers = ("bridge",)

    def __init__(self, params: ResidualBridgeParams) -> None:
        self.sigma, self.start_fraction, self.train_steps = params.sigma, params.start_fraction, params.train_steps
        self.predict_error = params.predict_error

    def draw_times(self, batch: int, generator: torch.Generator) -> Times:
        if self.train_steps:
            time = drawn_among(self.times(self.train_steps, "trailing"), batch, generator)
        else:
            time = torch.rand(batch, generator=generator)
        at_start = torch.rand(batch, generator=generator) < self.start_fraction
        return torch.where(at_start, torch.ones(()), time)

    def q_sample(self, x_0: Image, start: Image, time: Times, noise: Image) -> Image:
        t = along(time, x_0)
        return (1 - t) * x_0 + t * start + self.sigma * (t * (1 - t)).sqrt() * noise

    def usual_steps(self, samples: int) -> int:
        """One, the mean, which is best in PSNR and fastest; more only where samples are to differ."""
        return self.train_steps or (1 if samples == 1 else SAMPLING_STEPS)

    def varies(self, steps: int) -> bool:
        """One step begins at the start and ends at the mean: no noise enters."""
        return steps > 1 and self.sigma > 0
