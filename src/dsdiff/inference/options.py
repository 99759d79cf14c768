"""How a case is to be sampled: in how many steps, how often, from which noise, and how far beyond its condition."""

from dataclasses import dataclass

from dsdiff.errors import ConfigError
from dsdiff.inference.model import Model


@dataclass(frozen=True)
class Sampling:
    """What a result depends on beside model and inputs, as `plan` found it possible.

    guidance: 1 is the network's answer; w is u + w (answer - u), where u is its answer to T1 alone (`data.source_contrast`).

    Source: Ho and Salimans 2022 (arXiv:2207.12598), equation 6, whose w is ours minus 1; theirs is unconditional where
    ours knows T1.
    """

    steps: int
    samples: int = 1
    seed: int = 0
    guidance: float = 1.0


def plan(model: Model, *, steps: int | None = None, samples: int = 1, seed: int = 0, guidance: float = 1.0) -> Sampling:
    """How to sample: steps as given, those of the model's sampler, or what its process usually takes.

    Raises `ConfigError` for what is impossible, for samples that would be equal, and for guidance of a model that was
    never shown a case without its contrasts.
    """
    process, sampler, name = model.process, model.sampler, model.config.process.target
    chosen = (steps, sampler.steps, process.usual_steps(samples))
    steps = next(count for count in chosen if count is not None)
    if steps < 1 or samples < 1:
        raise ConfigError(f"steps and samples are {steps} and {samples}; both must be 1 or more")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be 0 or more")
    process.times(steps, sampler.spacing)
    if samples > 1 and not process.varies(steps):
        more = "--steps 2 or more" if process.varies(steps + 1) else "--samples 1"
        raise ConfigError(f"--steps {steps} of process '{name}' is deterministic: samples would be equal; take {more}")
    if guidance < 0:
        raise ConfigError(f"guidance is {guidance:g}; it must be 0 or more, and 1 is none")
    if guidance != 1 and not model.config.data.optional:
        raise ConfigError(
            f"--guidance {guidance:g} compares with T1 alone, which model {model.name} was never shown: it takes one "
            "that was trained with data.contrast_dropout above 0"
        )
    return Sampling(steps, samples, seed, guidance)
