"""What a network says of slices: samples of them, and the error that it expects."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsdiff.conditioning import style_image as styles
from dsdiff.diffusion.process import NoiseProcess
from dsdiff.inference import parallel
from dsdiff.inference.model import Model
from dsdiff.inference.options import Sampling
from dsdiff.preprocessing.slices import SliceBatch
from dsdiff.style.regression import Code
from dsdiff.types import Condition


@dataclass(frozen=True)
class Drawn:
    """Samples of a batch of slices, robust z-scores.

    expected: the standard deviation of the error that the network itself expects, where its process has `spread`.
    styled: the slices in the style that the network was told, where it was.
    """

    samples: Float[np.ndarray, "k b h w"]
    expected: Float[np.ndarray, "b h w"] | None
    styled: Float[np.ndarray, "b h w"] | None = None

    @property
    def mean(self) -> Float[np.ndarray, "b h w"]:
        """Over the samples."""
        return self.samples.mean(0)

    @property
    def std(self) -> Float[np.ndarray, "b h w"] | None:
        """What the network expects, else what the samples show, None for one sample."""
        if self.expected is not None:
            return self.expected
        return self.samples.std(0, ddof=1) if len(self.samples) > 1 else None


@torch.inference_mode()
def predict(model: Model, batch: SliceBatch, sampling: Sampling, code: Code | None = None) -> Drawn:
    """Samples of a batch of slices, by default in the average style where the model is told one.

    The noise of a slice depends on seed, sample and slice alone.
    """
    data, process = model.config.data, model.process
    sources = torch.from_numpy(batch.sources).to(model.device)
    present = torch.ones(sources.shape[:2], dtype=torch.bool, device=model.device)
    present[:, list(batch.absent)] = False
    at = data.contrasts.index(data.source_contrast)

    def styled(there: Bool[Tensor, "b s"]) -> Float[Tensor, "b 1 h w"] | None:
        return None if code is None else styles.image(torch.from_numpy(code), sources, there)

    told, alone = styled(present), None
    cond = model.engine.condition(sources, present, told)
    if sampling.guidance != 1:
        start_only = present & (torch.arange(len(data.contrasts), device=model.device) == at)
        alone = model.engine.condition(sources, start_only, styled(start_only))
    start = sources[:, at, data.context_slices // 2, None]  # b 1 h w
    brain = torch.from_numpy(batch.brain).to(model.device)
    answer = partial(_answer, model, cond, alone, sampling.guidance)
    times, first, expected = process.times(sampling.steps, model.sampler.spacing), None, None
    if not process.from_noise:  # every sample begins at the start itself
        output = answer(start, times[0])
        first = _cleaned(process, output, start, brain, start, times[0])
        expected = _expected(model, output, brain) if process.predict_error else None

    def denoise(x_t: Float[Tensor, "b 1 h w"], time: float) -> Float[Tensor, "b 1 h w"]:
        if first is not None and time == 1:
            return first
        return _cleaned(process, answer(x_t, time), start, brain, x_t, time)

    drawn = []
    for sample in range(sampling.samples):
        generators = [np.random.default_rng([sampling.seed, sample, box.z]) for box in batch.boxes]
        noise = partial(_noise, generators, start)
        begin = noise() if process.from_noise else start
        drawn.append(model.sampler.sample(denoise, begin, times, process, noise) * process.scale)
    shown = None if told is None else told[:, 0].cpu().numpy()
    return Drawn(torch.cat(drawn, 1).transpose(0, 1).cpu().numpy(), expected, shown)


def _answer(
    model: Model,
    cond: Condition,
    alone: Condition | None,
    guidance: float,
    x_t: Float[Tensor, "b 1 h w"],
    time: float,
) -> Float[Tensor, "b c h w"]:
    """What the network says at a time; with `alone`, the condition of T1 alone, led away from what it says there."""
    parallel.go_on()
    timesteps = model.process.timestep(torch.full((len(x_t),), time, dtype=torch.float64)).float().to(x_t.device)
    output = model.engine(x_t, timesteps, cond)
    if alone is None:
        return output
    apart = model.engine(x_t, timesteps, alone)
    return torch.cat([apart[:, :1] + guidance * (output[:, :1] - apart[:, :1]), output[:, 1:]], 1)


def _cleaned(
    process: NoiseProcess,
    output: Float[Tensor, "b c h w"],
    start: Float[Tensor, "b 1 h w"],
    brain: Bool[Tensor, "b 1 h w"],
    x_t: Float[Tensor, "b 1 h w"],
    time: float,
) -> Float[Tensor, "b 1 h w"]:
    """x_0 by what the network says. Outside the brain it is zero, as every target was: no loss ever told it so."""
    times = torch.full((len(x_t),), time, dtype=torch.float64)
    return process.x_0(process.predicted(output, start), x_t, times).where(brain, 0)


def _expected(
    model: Model, output: Float[Tensor, "b c h w"], brain: Bool[Tensor, "b 1 h w"]
) -> Float[np.ndarray, "b h w"]:
    """The standard deviation of the error that the network expects, in robust z-scores, corrected by the model's
    calibration; of a Laplace distribution it is sqrt(2) times the mean absolute error.
    """
    deviation = model.process.expected_error(output) * model.process.scale * math.sqrt(2) * model.calibration
    return deviation.where(brain, 0)[:, 0].cpu().numpy()


def _noise(generators: list[np.random.Generator], like: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    drawn = np.stack([generator.standard_normal(like.shape[1:], np.float32) for generator in generators])
    return torch.from_numpy(drawn).to(like.device)
