"""Rectified flow: straight lines from Gaussian noise to the T1ce; the network predicts the velocity."""

import torch
from pydantic import Field

from dsdiff.diffusion.process import ImageBatch, NoiseProcess, Times, expand_like, sample_from_grid
from dsdiff.schema import ConfigModel


class RectifiedFlowParams(ConfigModel):
    """Settings of the rectified flow.

    Attributes:
        scale: Divisor of the robust z-scores, so that images have about the variance of the noise.
        train_steps: See `NoiseProcess`.
    """

    scale: float = Field(1.25, gt=0)
    train_steps: int | None = Field(None, ge=1)


class RectifiedFlow(NoiseProcess):
    """x_t = (1 - t) x_0 + t eps. The network predicts its velocity dx/dt = eps - x_0.

    Source: Liu et al. 2023 (arXiv:2209.03003, eq. 1), Lipman et al. 2023 (arXiv:2210.02747, eq. 23 with sigma_min 0).
    Time has the direction of SD3 (Esser et al. 2024, arXiv:2403.03206): 1 is noise.
    """

    Params = RectifiedFlowParams
    samplers = ("euler", "heun")

    def __init__(self, params: RectifiedFlowParams) -> None:
        self.scale = params.scale
        self.train_steps = params.train_steps

    def sample_times(self, batch: int, generator: torch.Generator) -> Times:
        if self.train_steps:
            return sample_from_grid(self.time_grid(self.train_steps, "trailing"), batch, generator)
        return torch.rand(batch, generator=generator)

    def compute_x_t(self, x_0: ImageBatch, source: ImageBatch, time: Times, noise: ImageBatch) -> ImageBatch:
        t = expand_like(time, x_0)
        return (1 - t) * x_0 + t * noise

    def target(self, x_0: ImageBatch, source: ImageBatch, time: Times, noise: ImageBatch) -> ImageBatch:
        return noise - x_0

    def x_0(self, prediction: ImageBatch, x_t: ImageBatch, time: Times) -> ImageBatch:
        return x_t - expand_like(time, x_t) * prediction
