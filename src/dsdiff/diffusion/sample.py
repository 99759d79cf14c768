"""Sample images from any network under any condition, for a process and one of its samplers: `dsdiff.sample`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.diffusion.process import ImageBatch, NoiseProcess, TimestepSpacing
from dsdiff.diffusion.registry import PROCESSES, SAMPLERS, build_process, build_sampler
from dsdiff.diffusion.samplers import Denoiser, NoiseSource
from dsdiff.errors import ConfigError, InputError
from dsdiff.layers.network_call import bind_condition, network_name
from dsdiff.types import Condition


class SampleOptions(TypedDict, total=False):
    """Options of `sample` that only some processes and samplers use.

    Attributes:
        sampler: Name of the sampler. Default: the first one of the process.
        spacing: Which times the steps visit, in the words of diffusers. Default: trailing.
        eta: Share of new noise in every step of the sampler ddim. Default: 0.
        source: Images where sampling begins, (b, 1, h, w), for processes that do not begin with noise.
    """

    sampler: str
    spacing: TimestepSpacing
    eta: float
    source: Tensor


@torch.no_grad()
def sample(
    network: Callable[..., Any],
    condition: Tensor | Condition,
    process: NoiseProcess | Literal["bridge", "ddpm", "flow", "regression"],
    steps: int | None = None,
    seed: int | None = None,
    **options: Unpack[SampleOptions],
) -> ImageBatch:
    """Sample one image for each condition.

    Args:
        network: A network that is called as network(x, t, c), network(x, t) with the condition in x, or
            network(x_t, t, cond) with a `Condition`. It samples in evaluation mode.
        condition: Condition channels (b, c, h, w) on the device of the network, or a `Condition`.
        process: The process that the network is trained for, or its name for the process with its default settings.
        steps: Number of sampling steps. None: the default of the process.
        seed: Seed of the noise, the same on every device. None: random noise of `torch.randn`.
        **options: See `SampleOptions`.

    Returns:
        x_0, in the units in which the network is trained. These are z-scores / `process.scale` if `dsdiff train`
        trained it.

    Raises:
        ConfigError: A name or an option is unknown, or the process does not use an argument.
        InputError: The condition or the source image has another shape.
    """
    if isinstance(process, str):
        process = build_process(process, {})
    _check_options(options, process)
    source = options.pop("source", None)

    sampler_name = options.pop("sampler", None)
    sampler_params = {**options} if steps is None else {"steps": steps, **options}
    times = process.time_grid(steps or process.default_steps(1), options.get("spacing", "trailing"))
    sampler = build_sampler(sampler_name, sampler_params, process, _process_name(process))
    n_steps = len(times) - 1
    if seed is not None and not process.is_stochastic(n_steps):
        raise ConfigError(
            f"process '{_process_name(process)}' uses no noise in {n_steps} step(s), so no seed; remove it"
        )

    images = condition.maps() if isinstance(condition, Condition) else condition
    _check_shapes(images, source)
    sample_noise = _noise_source(images, seed)
    x_1 = sample_noise() if source is None else source.to(images)
    with _evaluation_mode(network):
        denoise = _build_denoiser(network, condition, process, x_1)
        return sampler.sample(denoise, x_1, times, process, sample_noise)


def _check_options(options: SampleOptions, process: NoiseProcess) -> None:
    """Raise `ConfigError` for an option that is unknown, that process or sampler do not use, or that they lack."""
    process_name = _process_name(process)
    if unknown_options := set(options) - set(SampleOptions.__annotations__):
        raise ConfigError(
            f"sample has no option {', '.join(sorted(unknown_options))}; there are: "
            f"{', '.join(SampleOptions.__annotations__)}"
        )
    if process.from_noise and "source" in options:
        raise ConfigError(f"process '{process_name}' begins with noise and does not use source; remove it")
    if not process.from_noise and "source" not in options:
        raise ConfigError(f"process '{process_name}' begins with an image: give it as source, (b, 1, h, w)")

    sampler = options.get("sampler", process.samplers[0])
    if "eta" in options and sampler in SAMPLERS and "eta" not in SAMPLERS[sampler].Params.model_fields:
        raise ConfigError(f"sampler '{sampler}' of process '{process_name}' does not use eta; remove it")


def _check_shapes(images: Tensor, source: Tensor | None) -> None:
    """Raise `InputError` for channels that are no images, or a source image of another shape."""
    if images.ndim != 4:
        raise InputError(f"condition is {tuple(images.shape)}; channels (b, c, h, w) are needed")
    source_shape = (len(images), 1, *images.shape[-2:])
    if source is not None and source.shape != source_shape:
        raise InputError(f"source is {tuple(source.shape)}; for this condition {source_shape} is needed")


def _process_name(process: NoiseProcess) -> str:
    names = [name for name, process_class in PROCESSES.items() if isinstance(process, process_class)]
    return names[0] if names else type(process).__name__


def _noise_source(like: Float[Tensor, "b c h w"], seed: int | None) -> NoiseSource:
    """A function that returns noise (b, 1, h, w). It is drawn on the CPU, so that every device gets the same."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    shape = (len(like), 1, *like.shape[-2:])
    return lambda: torch.randn(shape, generator=generator).to(like.device)


@contextmanager
def _evaluation_mode(network: Callable[..., Any]) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has the mode that it had before."""
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _build_denoiser(
    network: Callable[..., Any], condition: Tensor | Condition, process: NoiseProcess, source: ImageBatch
) -> Denoiser:
    """The function (x_t, time) -> x_0. A process that begins with noise does not read `source`."""
    predict = bind_condition(network, condition)

    def denoise(x_t: ImageBatch, time: float) -> ImageBatch:
        times = torch.full((len(x_t),), time, dtype=torch.float64)
        output = predict(x_t, process.timestep(times).float().to(x_t.device))
        if output.shape[1] != process.out_channels:
            raise ConfigError(
                f"{network_name(network)} returns {output.shape[1]} channels, process '{_process_name(process)}' needs "
                f"{process.out_channels}: see out_channels, learn_sigma and predict_error"
            )
        return process.x_0(process.decode_prediction(output, source), x_t, times)

    return denoise
