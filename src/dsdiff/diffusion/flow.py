"""Rectified flow: straight lines from Gaussian noise to the T1ce; the network tells the velocity."""

import torch
from pydantic import Field

from dsdiff.diffusion.process import Image, NoiseProcess, Times, along, drawn_among
from dsdiff.schema import ConfigModel


class RectifiedFlowParams(ConfigModel):
    """`scale`: what robust z-scores are divided by, so that the data have about the noise's variance.
    `train_steps`: see `NoiseProcess`."""

    scale: float = Field(1.25, gt=0)
    train_steps: int | None = Field(None, ge=1)


class RectifiedFlow(NoiseProcess):
    """x_t = (1 - t) x_0 + t eps, whose velocity dx/dt is eps - x_0: what the network predicts.

    Source: Liu et al. 2023 (arXiv:2209.03003, eq. 1), Lipman et al. 2023 (arXiv:2210.02747, eq. 23 with sigma_min 0),
    with time counted as in SD3 (Esser et al. 2024, arXiv:2403.03206): 1 is noise.
    """

    Params = RectifiedFlowParams
    samplers = ("euler", "heun")

    def __init__(self, params: RectifiedFlowParams) -> None:
        self.scale, self.train_steps = params.scale, params.train_steps

    def draw_times(self, batch: int, generator: torch.Generator) -> Times:
        if self.train_steps:
            return drawn_among(self.times(self.train_steps, "trailing"), batch, generator)
        return torch.rand(batch, generator=generator)

    def q_sample(self, x_0: Image, start: Image, time: Times, noise: Image) -> Image:
        t = along(time, x_0)
        return (1 - t) * x_0 + t * noise

    def target(self, x_0: Image, start: Image, time: Times, noise: Image) -> Image:
        return noise - x_0

    def x_0(self, predicted: Image, x_t: Image, time: Times) -> Image:
        return x_t - along(time, x_t) * predicted
