"""The protocol of a noise process: how the clean image is mixed with noise or a start, and how that is undone."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dsdiff.errors import ConfigError
from dsdiff.schema import ConfigModel

TIMESTEPS = 1000.0  # the scale on which backbones are told a continuous time
LOG_ERROR = (-5.0, 3.0)  # natural logarithms of the least and the largest error that a network may expect
NOISE_STEPS = 20  # of a synthesis that begins with noise, where nothing else is said: the field's recipe for DDIM
Image = Float[Tensor, "b 1 h w"]
Output = Float[Tensor, "b c h w"]  # of the network: see `NoiseProcess.out_channels`
Times = Float[Tensor, " b"]
Spacing = Literal["leading", "trailing", "linspace"]


@runtime_checkable
class NoiseProcess(Protocol):
    """Time runs from 0 (clean) to 1 (where sampling begins). Times live on the CPU, wherever the images do.

    Images are robust z-scores divided by `scale`. The defaults are those of a process that begins with noise.
    """

    Params: ClassVar[type[ConfigModel]]
    samplers: ClassVar[tuple[str, ...]]  # the samplers that fit, the usual one first
    predict_error: bool = False  # the network tells in a second channel how wrong it expects to be
    from_noise: ClassVar[bool] = True  # sampling begins with noise; otherwise with the start image
    scale: float = 1.0
    train_steps: int | None = None  # trained on the times of so many trailing steps alone; None: on all times

    def __init__(self, params: Any) -> None:
        """From the class' own `Params`."""

    def draw_times(self, batch: int, generator: torch.Generator) -> Times:
        """Times to train on."""
        ...

    def timestep(self, time: Times) -> Times:
        """What the backbone is told of the time."""
        return time * TIMESTEPS

    def q_sample(self, x_0: Image, start: Image, time: Times, noise: Image) -> Image:
        """x_t given both ends."""
        ...

    def predicted(self, output: Output, start: Image) -> Image:
        """What a network's output stands for: itself, or with the start added where the network tells a residual."""
        return output

    def target(self, x_0: Image, start: Image, time: Times, noise: Image) -> Image:
        """What `predicted` should be; the loss compares the two."""
        ...

    @property
    def out_channels(self) -> int:
        """Of the network."""
        return 2 if self.predict_error else 1

    def expected_error(self, output: Output) -> Image:
        """With `spread`, the mean absolute error of x_0 that the network expects: 1 for an output of zero."""
        return output[:, 1:].clamp(*LOG_ERROR).exp()

    def x_0(self, predicted: Image, x_t: Image, time: Times) -> Image:
        """The clean image that a prediction stands for."""
        ...

    def times(self, steps: int, spacing: Spacing) -> list[float]:
        """The times that a synthesis visits, from the first to 0. Raises `ConfigError` where there are none such."""
        return even_times(steps, spacing)

    def usual_steps(self, samples: int) -> int:
        """Steps of a synthesis where neither config nor command says any."""
        return self.train_steps or NOISE_STEPS

    def varies(self, steps: int) -> bool:
        """Whether samples of so many steps differ from one another."""
        return True


class Residual(NoiseProcess):
    """A process that begins at the start image, whose network predicts x_0 - start: its losses judge x_0."""

    from_noise = False

    def predicted(self, output: Output, start: Image) -> Image:
        return start + output[:, :1]

    def target(self, x_0: Image, start: Image, time: Times, noise: Image) -> Image:
        return x_0

    def x_0(self, predicted: Image, x_t: Image, time: Times) -> Image:
        return predicted


def even_times(steps: int, spacing: Spacing) -> list[float]:
    """`steps` equal steps from time 1 to time 0 (trailing), or to a thousandth and from there to 0 (linspace).

    Source: linspace as diffusers' FlowMatchEulerDiscreteScheduler; trailing are the times that Flux gives it.
    """
    if spacing == "leading":
        raise ConfigError("spacing 'leading' does not visit time 1, where sampling begins; take trailing or linspace")
    if spacing == "trailing":
        return [1 - step / steps for step in range(steps + 1)]
    last = 1 / TIMESTEPS
    return [1 - (1 - last) * step / max(1, steps - 1) for step in range(steps)] + [0.0]


def drawn_among(times: Sequence[float], batch: int, generator: torch.Generator) -> Times:
    """Times drawn from those that a synthesis visits (the last, 0, is where it arrives).

    Source: training on the steps of sampling alone after Jiang et al. 2024 (Fast-DDPM, arXiv:2405.14802).
    """
    return torch.tensor(times[:-1])[torch.randint(len(times) - 1, (batch,), generator=generator)]


def along(time: Float[Tensor, "..."], image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 1 1"]:
    """A number per sample, on the device and in the precision of the images it multiplies."""
    return time.to(image)[:, None, None, None]
