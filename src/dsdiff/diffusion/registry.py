"""Names of processes and samplers, and which go together."""

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
class _Entry:
    function: Any
    Params: type[ConfigModel]
    needs: str  # of the process: why others are refused


PROCESSES: dict[str, type[NoiseProcess]] = {
    "bridge": ResidualBridge,
    "ddpm": DDPM,
    "flow": RectifiedFlow,
    "regression": Regression,
}
SAMPLERS = {
    "one_step": _Entry(samplers.one_step, OneStepParams, "an answer without noise"),
    "bridge": _Entry(samplers.bridge, SamplerParams, "a Brownian bridge that begins at an image"),
    "ancestral": _Entry(samplers.ancestral, SamplerParams, "a schedule of betas"),
    "ddim": _Entry(samplers.ddim, DDIMParams, "a schedule of betas"),
    "dpmpp_2m": _Entry(samplers.dpmpp_2m, SamplerParams, "a schedule of betas"),
    "euler": _Entry(samplers.euler, SamplerParams, "a velocity on straight lines from noise"),
    "heun": _Entry(samplers.heun, SamplerParams, "a velocity on straight lines from noise"),
}


def build_process(target: str, params: dict[str, Any]) -> NoiseProcess:
    """The process of a config. Raises `ConfigError` for an unknown target or params."""
    if target not in PROCESSES:
        raise ConfigError(f"process '{target}' is unknown; there are: {', '.join(PROCESSES)}")
    process = PROCESSES[target]
    return process(_checked(process.Params, params, f"process.params of '{target}'"))


def build_sampler(target: str | None, params: dict[str, Any], process: NoiseProcess, name: str) -> Sampler:
    """The sampler of a config for the process of that name; None takes the process' usual one.

    Raises `ConfigError` for an unknown target or params, a sampler that does not fit the process, and times that the
    process does not have.
    """
    target = target if target is not None else process.samplers[0]
    if target not in SAMPLERS:
        raise ConfigError(f"sampler '{target}' is unknown; there are: {', '.join(SAMPLERS)}")
    entry = SAMPLERS[target]
    if target not in process.samplers:
        raise ConfigError(
            f"sampler '{target}' needs {entry.needs}, which process '{name}' does not have; "
            f"with '{name}' go: {', '.join(process.samplers)}"
        )
    options = _checked(entry.Params, params, f"sampler.params of '{target}'").model_dump()
    steps, spacing = options.pop("steps"), options.pop("spacing")
    if process.train_steps and (spacing, steps or process.train_steps) != ("trailing", process.train_steps):
        raise ConfigError(
            f"process.params.train_steps is {process.train_steps}, which trains on that many trailing times; "
            f"sampler '{target}' would take {steps or process.train_steps} steps of spacing '{spacing}'"
        )
    process.times(steps or process.usual_steps(1), spacing)
    return Sampler(partial(entry.function, **options), steps, spacing)


def _checked(Params: type[ConfigModel], params: dict[str, Any], where: str) -> ConfigModel:
    try:
        return Params(**params)
    except ValidationError as error:
        raise ConfigError(f"{where}: {format_validation_error(error)}") from error
