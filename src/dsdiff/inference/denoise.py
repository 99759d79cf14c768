"""From a batch of source slices to samples of the T1ce: the denoiser and the loop over samples."""

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsdiff.conditioning.style_image import render_slice_style
from dsdiff.diffusion.process import NoiseProcess
from dsdiff.inference import parallel
from dsdiff.inference.model import Model
from dsdiff.inference.options import SamplingPlan
from dsdiff.network_protocols import ConditionalNetwork
from dsdiff.preprocessing.slices import SliceBatch
from dsdiff.style.regression import StyleCode
from dsdiff.types import Condition


@dataclass(frozen=True)
class Denoiser:
    """Predicts x_0 from x_t: the network with guidance, the process's conversion to x_0, and the brain mask.

    Attributes:
        network: Predicts the process's target.
        process: Converts predictions to x_0.
        cond: Condition of the slices.
        source: Robust z-scores of the source contrast (T1), where a bridge begins.
        brain: Brain mask. Outside of it x_0 is zero, as every target was; no loss covers the outside.
        source_only_cond: Condition of the source contrast alone, for guidance; None without guidance.
        guidance: Guidance scale, see `SamplingPlan`.
        initial_x_0: x_0 at time 1 if all samples begin at the same image, so that it is computed once.
    """

    network: ConditionalNetwork
    process: NoiseProcess
    cond: Condition
    source: Float[Tensor, "b 1 h w"]
    brain: Bool[Tensor, "b 1 h w"]
    source_only_cond: Condition | None = None
    guidance: float = 1.0
    initial_x_0: Float[Tensor, "b 1 h w"] | None = None

    def __call__(self, x_t: Float[Tensor, "b 1 h w"], time: float) -> Float[Tensor, "b 1 h w"]:
        """Predict x_0.

        Args:
            x_t: Noisy slices.
            time: Time of the process, 0 to 1.

        Returns:
            x_0, zero outside the brain.
        """
        if self.initial_x_0 is not None and time == 1:
            return self.initial_x_0
        return self.to_x_0(self.predict(x_t, time), x_t, time)

    def predict(self, x_t: Float[Tensor, "b 1 h w"], time: float) -> Float[Tensor, "b c h w"]:
        """Compute the network's output with guidance.

        Args:
            x_t: Noisy slices.
            time: Time of the process, 0 to 1.

        Returns:
            The output; channel 0 is guided, the others (predicted error) are not.

        Raises:
            CancelledError: If this worker's work was cancelled.
        """
        parallel.raise_if_cancelled()
        times = torch.full((len(x_t),), time, dtype=torch.float64)
        timesteps = self.process.timestep(times).float().to(x_t.device)
        output = self.network(x_t, timesteps, self.cond).value
        if self.source_only_cond is None:
            return output

        source_only = self.network(x_t, timesteps, self.source_only_cond).value
        guided = source_only[:, :1] + self.guidance * (output[:, :1] - source_only[:, :1])
        return torch.cat([guided, output[:, 1:]], 1)

    def to_x_0(
        self, output: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b 1 h w"], time: float
    ) -> Float[Tensor, "b 1 h w"]:
        """Convert the network's output to x_0.

        Args:
            output: What `predict` returns.
            x_t: Noisy slices.
            time: Time of the process, 0 to 1.

        Returns:
            x_0, zero outside the brain.
        """
        times = torch.full((len(x_t),), time, dtype=torch.float64)
        prediction = self.process.decode_prediction(output, self.source)
        return self.process.x_0(prediction, x_t, times).where(self.brain, 0)


@dataclass(frozen=True)
class SliceSamples:
    """Samples of a batch of slices, robust z-scores.

    Attributes:
        samples: One T1ce slice for each sample and slice.
        error_std: Standard deviation of the error that the network predicts; None if its process predicts none.
        style_image: The slices rendered in the style that conditions the network; None without a style code.
    """

    samples: Float[np.ndarray, "k b h w"]
    error_std: Float[np.ndarray, "b h w"] | None
    style_image: Float[np.ndarray, "b h w"] | None = None

    @property
    def mean(self) -> Float[np.ndarray, "b h w"]:
        """The mean over the samples.

        Returns:
            Robust z-scores.
        """
        return self.samples.mean(0)

    @property
    def std(self) -> Float[np.ndarray, "b h w"] | None:
        """The uncertainty of the slices.

        Returns:
            The predicted error; without one, the standard deviation over the samples; None for one sample.
        """
        if self.error_std is not None:
            return self.error_std
        return self.samples.std(0, ddof=1) if len(self.samples) > 1 else None


@torch.inference_mode()
def sample_slices(
    model: Model, batch: SliceBatch, plan: SamplingPlan, style_code: StyleCode | None = None
) -> SliceSamples:
    """Sample the T1ce of a batch of slices. The noise of a slice depends only on seed, sample and slice.

    Args:
        model: The model.
        batch: Source slices.
        plan: Sampling settings.
        style_code: Style of the T1ce; None for the average of the training patients, if the model has one.

    Returns:
        The samples and the uncertainty.
    """
    process = model.process
    times = process.time_grid(plan.steps, model.sampler.spacing)
    denoiser, style_image = build_denoiser(model, batch, plan, style_code)
    source = denoiser.source

    error_std = None
    if not process.from_noise:  # every sample begins at the source itself
        output = denoiser.predict(source, times[0])
        denoiser = replace(denoiser, initial_x_0=denoiser.to_x_0(output, source, times[0]))
        error_std = _decode_error_std(model, output, denoiser.brain) if process.predict_error else None

    samples = []
    for sample in range(plan.samples):
        generators = [np.random.default_rng([plan.seed, sample, box.z]) for box in batch.boxes]
        noise = partial(_sample_noise, generators, source)
        x_t = noise() if process.from_noise else source
        samples.append(model.sampler.sample(denoiser, x_t, times, process, noise) * process.scale)

    return SliceSamples(
        torch.cat(samples, 1).transpose(0, 1).cpu().numpy(),  # b k h w -> k b h w
        error_std,
        None if style_image is None else style_image[:, 0].cpu().numpy(),
    )


def build_denoiser(
    model: Model, batch: SliceBatch, plan: SamplingPlan, style_code: StyleCode | None = None
) -> tuple[Denoiser, Float[Tensor, "b 1 h w"] | None]:
    """Build the conditions of a batch of slices and the denoiser that uses them.

    Args:
        model: The model.
        batch: Source slices.
        plan: Sampling settings.
        style_code: See `sample_slices`.

    Returns:
        The denoiser, and the slices rendered in the style (None without a style code).
    """
    data, device = model.config.data, model.device
    sources = torch.from_numpy(batch.sources).to(device)  # b s d h w
    present = torch.ones(sources.shape[:2], dtype=torch.bool, device=device)  # b s
    present[:, list(batch.absent)] = False

    style_image = _render_style(style_code, sources, present)
    cond = model.engine.condition(sources, present, style_image)

    source_index = data.contrasts.index(data.source_contrast)
    source_only_cond = None
    if plan.guidance != 1:
        source_only = present & (torch.arange(len(data.contrasts), device=device) == source_index)
        source_only_style = _render_style(style_code, sources, source_only)
        source_only_cond = model.engine.condition(sources, source_only, source_only_style)

    source = sources[:, source_index, data.context_slices // 2, None]  # b 1 h w
    brain = torch.from_numpy(batch.brain).to(device)
    denoiser = Denoiser(model.engine, model.process, cond, source, brain, source_only_cond, plan.guidance)
    return denoiser, style_image


def _render_style(
    style_code: StyleCode | None, sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]
) -> Float[Tensor, "b 1 h w"] | None:
    if style_code is None:
        return None
    return render_slice_style(torch.from_numpy(style_code.weights), style_code.kind, sources, present)


def _decode_error_std(
    model: Model, output: Float[Tensor, "b c h w"], brain: Bool[Tensor, "b 1 h w"]
) -> Float[np.ndarray, "b h w"]:
    """The predicted standard deviation of the error in robust z-scores, corrected by the model's calibration.

    The network predicts the mean absolute error. Of a Laplace distribution the standard deviation is sqrt(2) times it.
    """
    error_std = (
        model.process.decode_error(output) * model.process.scale * math.sqrt(2) * model.metadata.calibration_factor
    )
    return error_std.where(brain, 0)[:, 0].cpu().numpy()


def _sample_noise(generators: list[np.random.Generator], like: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    noise = np.stack([generator.standard_normal(like.shape[1:], np.float32) for generator in generators])
    return torch.from_numpy(noise).to(like.device)
