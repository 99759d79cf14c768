"""Noise processes: how the clean image is mixed with noise or a starting image, and how a prediction is undone."""

from typing import Any, Protocol

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dsdiff.errors import ConfigError

TIMESTEPS = 1000.0  # the scale on which backbones are told the time


class NoiseProcess(Protocol):
    """Time runs from 0 (clean, x_0) to 1 (start)."""

    def draw_times(self, batch: int, generator: torch.Generator) -> Float[Tensor, " b"]:
        """Times to train on."""
        ...

    def q_sample(
        self,
        x_0: Float[Tensor, "b 1 h w"],
        start: Float[Tensor, "b 1 h w"],
        time: Float[Tensor, " b"],
        noise: Float[Tensor, "b 1 h w"],
    ) -> Float[Tensor, "b 1 h w"]:
        """x_t given both ends."""
        ...

    def x_0(
        self, output: Float[Tensor, "b 1 h w"], x_t: Float[Tensor, "b 1 h w"], start: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b 1 h w"]:
        """The clean image that a network's output stands for."""
        ...


class ResidualBridgeParams(BaseModel):
    """`sigma`: standard deviation scale of the bridge, in robust z-scores. `start_share`: of the training times, how
    many are exactly 1, which is all that one-step synthesis uses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sigma: float = Field(0.5, ge=0)
    start_share: float = Field(0.5, ge=0, le=1)


class ResidualBridge:
    """A Brownian bridge from the pre-contrast image (time 1) to the T1ce (time 0); the network predicts x_0 - start.

    x_t = (1 - t) x_0 + t x_1 + sigma sqrt(t (1 - t)) eps.
    Source: Brownian bridges between images after Li et al. 2023 (BBDM, arXiv:2205.07680, eq. 4) and Liu et al. 2023
    (I2SB, arXiv:2302.05872); x_0 prediction as in DESIGN.
    """

    Params = ResidualBridgeParams

    def __init__(self, params: ResidualBridgeParams) -> None:
        self.sigma, self.start_share = params.sigma, params.start_share

    def draw_times(self, batch: int, generator: torch.Generator) -> Float[Tensor, " b"]:
        time = torch.rand(batch, generator=generator)
        at_start = torch.rand(batch, generator=generator) < self.start_share
        return torch.where(at_start, torch.ones(()), time)

    def q_sample(
        self,
        x_0: Float[Tensor, "b 1 h w"],
        start: Float[Tensor, "b 1 h w"],
        time: Float[Tensor, " b"],
        noise: Float[Tensor, "b 1 h w"],
    ) -> Float[Tensor, "b 1 h w"]:
        t = time[:, None, None, None]
        return (1 - t) * x_0 + t * start + self.sigma * (t * (1 - t)).sqrt() * noise

    def x_0(
        self, output: Float[Tensor, "b 1 h w"], x_t: Float[Tensor, "b 1 h w"], start: Float[Tensor, "b 1 h w"]
    ) -> Float[Tensor, "b 1 h w"]:
        return start + output


PROCESSES: dict[str, type[ResidualBridge]] = {"bridge": ResidualBridge}


def build(target: str, params: dict[str, Any]) -> ResidualBridge:
    """The process of a config. Raises `ConfigError` for an unknown target or params."""
    if target not in PROCESSES:
        raise ConfigError(f"process '{target}' is unknown; there are: {', '.join(PROCESSES)}")
    process = PROCESSES[target]
    try:
        return process(process.Params(**params))
    except ValidationError as error:
        found = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"process.params of '{target}': {found}") from error
