"""Plain regression: the baseline that every diffusion process has to beat."""

import torch

from dsdiff.diffusion.process import ImageBatch, ResidualProcess, Times, TimestepSpacing
from dsdiff.errors import ConfigError
from dsdiff.schema import ConfigModel


class RegressionParams(ConfigModel):
    """Settings of the regression.

    Attributes:
        predict_error: See `NoiseProcess`.
    """

    predict_error: bool = False


class Regression(ResidualProcess):
    """One step without noise: the network receives the source image at time 1 and predicts x_0 - source."""

    Params = RegressionParams
    samplers = ("one_step",)

    def __init__(self, params: RegressionParams) -> None:
        self.predict_error = params.predict_error

    def sample_times(self, batch: int, generator: torch.Generator) -> Times:
        return torch.ones(batch)

    def compute_x_t(self, x_0: ImageBatch, source: ImageBatch, time: Times, noise: ImageBatch) -> ImageBatch:
        return source

    def time_grid(self, steps: int, spacing: TimestepSpacing) -> list[float]:
        if steps != 1:
            raise ConfigError(f"process 'regression' has one step only, not {steps}; set steps to 1")
        return [1.0, 0.0]

    def default_steps(self, samples: int) -> int:
        return 1

    def is_stochastic(self, steps: int) -> bool:
        return False
