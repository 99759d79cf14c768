"""The residual bridge from the pre-contrast image to the T1ce: the process of the shipped model."""

import torch
from pydantic import Field

from dsdiff.diffusion.process import ImageBatch, ResidualProcess, Times, expand_like, sample_from_grid
from dsdiff.schema import ConfigModel

DEFAULT_STOCHASTIC_STEPS = 4  # steps for more than one sample: a single step has no randomness


class ResidualBridgeParams(ConfigModel):
    """Settings of the residual bridge.

    Attributes:
        sigma: Standard deviation of the bridge, in robust z-scores.
        start_fraction: Fraction of the training times that are exactly 1, the only time that one-step synthesis uses.
        train_steps: See `NoiseProcess`.
        predict_error: See `NoiseProcess`.
    """

    sigma: float = Field(0.5, ge=0)
    start_fraction: float = Field(0.5, ge=0, le=1)
    train_steps: int | None = Field(None, ge=1)
    predict_error: bool = False


class ResidualBridge(ResidualProcess):
    """A Brownian bridge from the source image (time 1) to the T1ce (time 0); the network predicts x_0 - source.

    x_t = (1 - t) x_0 + t x_1 + sigma sqrt(t (1 - t)) eps, with x_1 the source image.
    Source: Brownian bridges between images after Li et al. 2023 (BBDM, arXiv:2205.07680, eq. 4) and Liu et al. 2023
    (I2SB, arXiv:2302.05872); x_0 prediction as in docs/diffusion.md.
    """

    Params = ResidualBridgeParams
    samplers = ("bridge",)

    def __init__(self, params: ResidualBridgeParams) -> None:
        self.sigma = params.sigma
        self.start_fraction = params.start_fraction
        self.train_steps = params.train_steps
        self.predict_error = params.predict_error

    def sample_times(self, batch: int, generator: torch.Generator) -> Times:
        if self.train_steps:
            time = sample_from_grid(self.time_grid(self.train_steps, "trailing"), batch, generator)
        else:
            time = torch.rand(batch, generator=generator)
        is_start = torch.rand(batch, generator=generator) < self.start_fraction
        return torch.where(is_start, torch.ones(()), time)

    def compute_x_t(self, x_0: ImageBatch, source: ImageBatch, time: Times, noise: ImageBatch) -> ImageBatch:
        t = expand_like(time, x_0)
        return (1 - t) * x_0 + t * source + self.sigma * (t * (1 - t)).sqrt() * noise

    def default_steps(self, samples: int) -> int:
        """Choose one step, which returns the mean: best in PSNR and fastest. Choose more if samples must differ.

        Args:
            samples: Number of samples per slice.

        Returns:
            Number of steps.
        """
        return self.train_steps or (1 if samples == 1 else DEFAULT_STOCHASTIC_STEPS)

    def is_stochastic(self, steps: int) -> bool:
        """Check whether samples differ. A single step goes from the source image to the mean and adds no noise.

        Args:
            steps: Number of sampling steps.

        Returns:
            True for two steps or more with a positive sigma.
        """
        return steps > 1 and self.sigma > 0
