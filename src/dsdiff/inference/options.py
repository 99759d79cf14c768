"""How a case is synthesized: number of steps, samples, seed, guidance, style and memory."""

from collections.abc import Callable
from dataclasses import dataclass

from dsdiff.errors import ConfigError
from dsdiff.inference.model import Model
from dsdiff.inference.style_reference import StyleReference

FractionCallback = Callable[[float], None]  # takes the fraction of the work that is done, 0 to 1


def ignore_fraction(fraction: float) -> None:
    """Do nothing: the progress callback of a caller that shows no progress.

    Args:
        fraction: Of the work that is done, 0 to 1.
    """


@dataclass(frozen=True)
class SynthesisOptions:
    """What a user can choose for a synthesis. `plan_sampling` checks it against a model.

    Attributes:
        steps: Sampling steps, 1 or more; None takes those of the model's sampler, else the default of its process.
        samples: Samples that are averaged, 1 or more.
        seed: Seed of the samples' noise, 0 or more.
        guidance: Guidance scale w, 0 or more; see `SamplingPlan`.
        style: Case whose tissue contrast the T1ce takes. None takes the contrast of the most similar training
            patients, or their average, if the model was trained with style conditioning.
        memory_gb: Limit of memory in GB. It changes how many slices are computed in parallel, never the result.
    """

    steps: int | None = None
    samples: int = 1
    seed: int = 0
    guidance: float = 1.0
    style: StyleReference | None = None
    memory_gb: float | None = None


@dataclass(frozen=True)
class SamplingPlan:
    """The sampling settings that a result depends on, with the model's defaults filled in.

    Attributes:
        steps: Sampling steps.
        samples: Samples that are averaged.
        seed: Seed of the samples' noise.
        guidance: Scale w of classifier-free guidance. The output is u + w (output - u), where u is the output for T1
            alone (`data.source_contrast`); 1 is no guidance.

    Source: Ho and Salimans 2022 (arXiv:2207.12598), equation 6. Their w is ours minus 1, and their u is unconditional.
    """

    steps: int
    samples: int = 1
    seed: int = 0
    guidance: float = 1.0


def plan_sampling(model: Model, options: SynthesisOptions | None = None) -> SamplingPlan:
    """Fill in a model's default steps and check that the model can sample so.

    Args:
        model: The model that samples.
        options: The user's choices; None for the model's defaults.

    Returns:
        The sampling settings.

    Raises:
        ConfigError: For values out of range, for several samples of a deterministic process, and for guidance of a
            model that was not trained with contrast dropout.
    """
    options = options or SynthesisOptions()
    steps = _count_steps(model, options)
    if steps < 1 or options.samples < 1:
        raise ConfigError(f"steps and samples are {steps} and {options.samples}; both must be 1 or more")
    if options.seed < 0:
        raise ConfigError(f"seed is {options.seed}; it must be 0 or more")

    model.process.time_grid(steps, model.sampler.spacing)  # raises ConfigError for more steps than it has times
    _check_samples_differ(model, steps, options.samples)
    _check_guidance(model, options.guidance)
    return SamplingPlan(steps, options.samples, options.seed, options.guidance)


def _count_steps(model: Model, options: SynthesisOptions) -> int:
    if options.steps is not None:
        return options.steps
    if model.sampler.steps is not None:
        return model.sampler.steps
    return model.process.default_steps(options.samples)


def _check_samples_differ(model: Model, steps: int, samples: int) -> None:
    process = model.process
    if samples > 1 and not process.is_stochastic(steps):
        remedy = "--steps 2 or more" if process.is_stochastic(steps + 1) else "--samples 1"
        raise ConfigError(
            f"--steps {steps} of process '{model.config.process.target}' is deterministic: {samples} samples would be "
            f"equal; take {remedy}"
        )


def _check_guidance(model: Model, guidance: float) -> None:
    if guidance < 0:
        raise ConfigError(f"guidance is {guidance:g}; it must be 0 or more, and 1 is no guidance")
    if guidance != 1 and not model.config.data.optional:
        raise ConfigError(
            f"--guidance {guidance:g} needs the output for T1 alone, but model {model.name} was never trained on T1 "
            "alone; take a model that was trained with data.contrast_dropout above 0"
        )
