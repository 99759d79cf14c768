"""The protocol of a noise process: how a clean image is mixed with noise or a source image, and how to invert that."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dsdiff.errors import ConfigError
from dsdiff.schema import ConfigModel

TIMESTEP_SCALE = 1000.0  # backbones receive a continuous time on this scale
LOG_ERROR_RANGE = (-5.0, 3.0)  # natural logarithms of the smallest and the largest error that a network may predict
DEFAULT_NOISE_STEPS = 20  # of a process that begins with noise, unless config or command set steps: usual for DDIM
ImageBatch = Float[Tensor, "b 1 h w"]
NetworkOutput = Float[Tensor, "b c h w"]  # c: see `NoiseProcess.out_channels`
Times = Float[Tensor, " b"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]


@runtime_checkable
class NoiseProcess(Protocol):
    """A path from the clean image x_0 at time 0 to the image x_1 where sampling begins, at time 1.

    Times are on the CPU, images on any device. Images are robust z-scores divided by `scale`. The source image is the
    pre-contrast image of the same slice. The default methods suit a process that begins with noise.

    Attributes:
        Params: The settings of the process, `process.params` in a config.
        samplers: Names of the samplers that fit, the default one first.
        predict_error: The network predicts its own error in a second channel.
        from_noise: Sampling begins with noise. False: it begins with the source image.
        scale: Divisor of the robust z-scores.
        train_steps: Number of trailing steps on whose times the network is trained. None: trained on all times.
    """

    Params: ClassVar[type[ConfigModel]]
    samplers: ClassVar[tuple[str, ...]]
    predict_error: bool = False
    from_noise: ClassVar[bool] = True
    scale: float = 1.0
    train_steps: int | None = None

    def __init__(self, params: Any) -> None:
        """Create the process from an instance of its own `Params`."""

    def sample_times(self, batch: int, generator: torch.Generator) -> Times:
        """Sample times to train on.

        Args:
            batch: Number of times.
            generator: Random generator on the CPU.

        Returns:
            Times in [0, 1].
        """
        ...

    def timestep(self, time: Times) -> Times:
        """Convert times to the timesteps that the backbone receives.

        Args:
            time: Times in [0, 1].

        Returns:
            Timesteps from 0 to about 1000.
        """
        return time * TIMESTEP_SCALE

    def compute_x_t(self, x_0: ImageBatch, source: ImageBatch, time: Times, noise: ImageBatch) -> ImageBatch:
        """Compute x_t from both ends of the path.

        Args:
            x_0: Clean images.
            source: Source images.
            time: One time in [0, 1] per image.
            noise: Standard normal noise eps.

        Returns:
            x_t.
        """
        ...

    def decode_prediction(self, output: NetworkOutput, source: ImageBatch) -> ImageBatch:
        """Convert the network's output to the quantity that the process predicts.

        Args:
            output: Output of the network.
            source: Source images.

        Returns:
            The output itself, or output + source if the network predicts a residual. The loss compares it to `target`.
        """
        return output

    def target(self, x_0: ImageBatch, source: ImageBatch, time: Times, noise: ImageBatch) -> ImageBatch:
        """Compute the quantity that `decode_prediction` should return for a perfect network.

        Args:
            x_0: Clean images.
            source: Source images.
            time: One time in [0, 1] per image.
            noise: The noise eps of `compute_x_t`.

        Returns:
            For example eps, v or x_0.
        """
        ...

    @property
    def out_channels(self) -> int:
        """Number of output channels of the network.

        Returns:
            2 if the network predicts its own error, else 1.
        """
        return 2 if self.predict_error else 1

    def decode_error(self, output: NetworkOutput) -> ImageBatch:
        """Convert the second output channel to the predicted error of x_0. Only with `predict_error`.

        Args:
            output: Output of the network with two channels; the second is the logarithm of the error.

        Returns:
            Predicted mean absolute error of x_0, in units of `scale`. An output of 0 means an error of 1.
        """
        return output[:, 1:].clamp(*LOG_ERROR_RANGE).exp()

    def x_0(self, prediction: ImageBatch, x_t: ImageBatch, time: Times) -> ImageBatch:
        """Compute the clean image that a prediction implies.

        Args:
            prediction: Result of `decode_prediction`.
            x_t: The images that the network received.
            time: One time in [0, 1] per image.

        Returns:
            x_0.
        """
        ...

    def time_grid(self, steps: int, spacing: TimestepSpacing) -> list[float]:
        """List the times that sampling visits.

        Args:
            steps: Number of steps, at least 1.
            spacing: How the times are spaced, in the words of diffusers.

        Returns:
            `steps` + 1 times, falling, the last one 0.

        Raises:
            ConfigError: The process has no such times.
        """
        return uniform_time_grid(steps, spacing)

    def default_steps(self, samples: int) -> int:
        """Choose the number of sampling steps if neither config nor command sets it.

        Args:
            samples: Number of samples per slice.

        Returns:
            Number of steps.
        """
        return self.train_steps or DEFAULT_NOISE_STEPS

    def is_stochastic(self, steps: int) -> bool:
        """Check whether two samples of the same slice differ.

        Args:
            steps: Number of sampling steps.

        Returns:
            False if sampling uses no random noise at all.
        """
        return True


class ResidualProcess(NoiseProcess):
    """A process that begins with the source image and whose network predicts x_0 - source. Its losses compare x_0."""

    from_noise = False

    def decode_prediction(self, output: NetworkOutput, source: ImageBatch) -> ImageBatch:
        return source + output[:, :1]

    def target(self, x_0: ImageBatch, source: ImageBatch, time: Times, noise: ImageBatch) -> ImageBatch:
        return x_0

    def x_0(self, prediction: ImageBatch, x_t: ImageBatch, time: Times) -> ImageBatch:
        return prediction


def uniform_time_grid(steps: int, spacing: TimestepSpacing) -> list[float]:
    """Divide the time from 1 to 0 (trailing), or from 1 to 1/1000 with a last step to 0 (linspace), into equal steps.

    Source: linspace as in diffusers' FlowMatchEulerDiscreteScheduler; trailing is the grid that Flux passes to it.

    Args:
        steps: Number of steps, at least 1.
        spacing: "trailing" or "linspace".

    Returns:
        `steps` + 1 times, from 1 to 0.

    Raises:
        ConfigError: The spacing is "leading", which does not visit time 1.
    """
    if spacing == "leading":
        raise ConfigError("spacing 'leading' does not visit time 1, where sampling begins; use trailing or linspace")
    if spacing == "trailing":
        return [1 - step / steps for step in range(steps + 1)]
    last = 1 / TIMESTEP_SCALE
    return [1 - (1 - last) * step / max(1, steps - 1) for step in range(steps)] + [0.0]


def sample_from_grid(times: Sequence[float], batch: int, generator: torch.Generator) -> Times:
    """Sample training times from a time grid, without its last time 0, where sampling ends.

    Source: training only on the steps of sampling after Jiang et al. 2024 (Fast-DDPM, arXiv:2405.14802).

    Args:
        times: A time grid, see `NoiseProcess.time_grid`.
        batch: Number of times.
        generator: Random generator on the CPU.

    Returns:
        Times, each with the same probability.
    """
    return torch.tensor(times[:-1])[torch.randint(len(times) - 1, (batch,), generator=generator)]


def expand_like(time: Float[Tensor, "..."], image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 1 1"]:
    """Add axes to one number per image, so that it multiplies the images.

    Args:
        time: One number per image.
        image: Images whose device and dtype the result takes.

    Returns:
        The numbers with the axes of the images.
    """
    return time.to(image)[:, None, None, None]
