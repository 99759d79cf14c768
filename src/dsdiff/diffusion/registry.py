"""Names of processes and samplers, and which sampler fits which process."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from dsdiff.diffusion import samplers
from dsdiff.diffusion.bridge import ResidualBridge
from dsdiff.diffusion.ddpm import DDPM
from dsdiff.diffusion.flow import RectifiedFlow
from dsdiff.diffusion.process import NoiseProcess
from dsdiff.diffusion.regression import Regression
from dsdiff.diffusion.samplers import DDIMParams, OneStepParams, Sampler, SamplerParams
from dsdiff.errors import ConfigError
from dsdiff.schema import ConfigModel, format_validation_error


@dataclass(frozen=True)
class _SamplerEntry:
    function: Any
    Params: type[ConfigModel]
    requirement: str  # what the process must have; the error for a process that does not fit


PROCESSES: dict[str, type[NoiseProcess]] = {
    "bridge": ResidualBridge,
    "ddpm": DDPM,
    "flow": RectifiedFlow,
    "regression": Regression,
}
SAMPLERS = {
    "one_step": _SamplerEntry(samplers.one_step, OneStepParams, "a prediction without noise"),
    "bridge": _SamplerEntry(samplers.bridge, SamplerParams, "a Brownian bridge that begins at an image"),
    "ancestral": _SamplerEntry(samplers.ancestral, SamplerParams, "a schedule of betas"),
    "ddim": _SamplerEntry(samplers.ddim, DDIMParams, "a schedule of betas"),
    "dpmpp_2m": _SamplerEntry(samplers.dpmpp_2m, SamplerParams, "a schedule of betas"),
    "euler": _SamplerEntry(samplers.euler, SamplerParams, "a velocity on straight lines from noise"),
    "heun": _SamplerEntry(samplers.heun, SamplerParams, "a velocity on straight lines from noise"),
}


def build_process(target: str, params: dict[str, Any]) -> NoiseProcess:
    """Build the noise process of a config.

    Args:
        target: Name of the process, a key of `PROCESSES`.
        params: Its settings, checked against `Params` of the process.

    Returns:
        The process.

    Raises:
        ConfigError: The name or a setting is unknown, or a value is out of range.
    """
    if target not in PROCESSES:
        raise ConfigError(f"process '{target}' is unknown; there are: {', '.join(PROCESSES)}")
    process = PROCESSES[target]
    return process(_validate_params(process.Params, params, f"process.params of '{target}'"))


def build_sampler(target: str | None, params: dict[str, Any], process: NoiseProcess, process_name: str) -> Sampler:
    """Build the sampler of a config.

    Args:
        target: Name of the sampler, a key of `SAMPLERS`. None: the default sampler of the process.
        params: Its settings.
        process: The process that the sampler inverts.
        process_name: Name of that process, for messages.

    Returns:
        The sampler.

    Raises:
        ConfigError: The name or a setting is unknown, the sampler does not fit the process, or the process lacks times.
    """
    target = target if target is not None else process.samplers[0]
    if target not in SAMPLERS:
        raise ConfigError(f"sampler '{target}' is unknown; there are: {', '.join(SAMPLERS)}")
    entry = SAMPLERS[target]
    if target not in process.samplers:
        raise ConfigError(
            f"sampler '{target}' needs {entry.requirement}, which process '{process_name}' does not have; "
            f"samplers for '{process_name}': {', '.join(process.samplers)}"
        )

    options = _validate_params(entry.Params, params, f"sampler.params of '{target}'").model_dump()
    steps = options.pop("steps")
    spacing = options.pop("spacing")
    if process.train_steps and (spacing, steps or process.train_steps) != ("trailing", process.train_steps):
        raise ConfigError(
            f"process.params.train_steps is {process.train_steps}, so the network is trained on {process.train_steps} "
            f"trailing times; sampler '{target}' would take {steps or process.train_steps} steps of spacing '{spacing}'"
        )
    process.time_grid(steps or process.default_steps(1), spacing)  # raises if there are no such times
    return Sampler(partial(entry.function, **options), steps, spacing)


def _validate_params(Params: type[ConfigModel], params: dict[str, Any], label: str) -> ConfigModel:
    try:
        return Params(**params)
    except ValidationError as error:
        raise ConfigError(f"{label}: {format_validation_error(error)}") from error
