"""Plain regression: the baseline that every diffusion process has to beat."""

import torch

from dsdiff.diffusion.process import Image, Residual, Spacing, Times
from dsdiff.errors import ConfigError
from dsdiff.schema import ConfigModel


class RegressionParams(ConfigModel):
    """`spread`: see `NoiseProcess`."""

    predict_error: bool = False


class Regression(Residual):
    """One step without noise: the network is given the start image at time 1 and predicts x_0 - start."""

    Params = RegressionParams
    samplers = ("one_step",)

    def __init__(self, params: RegressionParams) -> None:
        self.predict_error = params.predict_error

    def draw_times(self, batch: int, generator: torch.Generator) -> Times:
        return torch.ones(batch)

    def q_sample(self, x_0: Image, start: Image, time: Times, noise: Image) -> Image:
        return start

    def times(self, steps: int, spacing: Spacing) -> list[float]:
        if steps != 1:
            raise ConfigError(f"process 'regression' knows one step alone, not {steps}; take steps 1")
        return [1.0, 0.0]

    def usual_steps(self, samples: int) -> int:
        return 1

    def varies(self, steps: int) -> bool:
        return False
