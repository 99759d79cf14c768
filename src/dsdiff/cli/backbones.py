"""dsdiff backbones: list the backbones and measure their costs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdiff.cli.options import AllowCode, Device
from dsdiff.errors import ConfigError, UserError

if TYPE_CHECKING:
    from dsdiff.comparison_report.published import PublishedResult
    from dsdiff.config.run import RunConfig

COLUMNS = (
    "config",
    "parameters",
    "GMAC",
    "s",
    "GiB inference",
    "GiB training",
    "GPU GiB (estimate)",
    "published: M",
    "s",
    "GB",
)


def command(
    configs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG", help="Backbones to profile: YAML files or names. Default: all of configs/backbones."
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure the costs of each backbone, and show the published ones.")
    ] = False,
    size: Annotated[int, typer.Option(min=16, help="Height and width of the slice, in pixels.")] = 256,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Number of CPU threads.")] = 1,
    allow_code: AllowCode = False,
) -> None:
    """List the available backbones, or measure their costs with --profile.

    The list needs no arguments. --profile prints a Markdown table. All costs are for one slice:

    GMAC: 10^9 multiply-accumulates of one forward pass, attention included.

    s: seconds of one forward pass (CPU seconds with one thread).

    GiB inference, GiB training: memory of a forward pass and of a training step, above the empty process.

    GPU GiB: memory of training with batch size 8 in bf16, estimated from the activations and not measured.

    published: parameters, seconds per sample and GB from the original paper.

    Example: dsdiff backbones --profile dit-table dit-as-written --size 256
    """
    from dsdiff.backbones import registry
    from dsdiff.config.overrides import find_config, list_configs
    from dsdiff.system.console import progress_bars

    if not profile and (configs or allow_code):
        raise ConfigError("CONFIG and --allow-code need --profile")
    if not profile:
        for name, summary in registry.summaries().items():
            typer.echo(f"{name:18}{summary}")
        typer.echo("\nIn a config: backbone: {target: NAME, params: {...}}")
        typer.echo(f"Ready to use, by dsdiff train CONFIG backbone=NAME: {', '.join(list_configs('backbones'))}")
        return

    options = ProfileOptions(size, device, threads, allow_code)
    files = [find_config(name) for name in configs or list_configs("backbones")]
    typer.echo(f"| {' | '.join(COLUMNS)} |")
    typer.echo("|---" * len(COLUMNS) + "|")
    with progress_bars() as report_progress:
        for n_finished, file in enumerate(files):
            report_progress("profiling", n_finished, len(files), file.stem)
            typer.echo(f"| {' | '.join(_profile_row(file, options))} |")
        report_progress("profiling", len(files), len(files))


@dataclass(frozen=True)
class ProfileOptions:
    """How to profile a backbone.

    Attributes:
        size: Height and width of the slice, in pixels.
        device: auto, cpu, cuda or mps.
        threads: Number of CPU threads.
        allow_code: Import classes that configs name by a dotted path.
    """

    size: int
    device: str
    threads: int
    allow_code: bool


def _profile_row(file: Path, options: ProfileOptions) -> list[str]:
    """The cells of one backbone; a message if it does not accept the size."""
    from dsdiff.backbones import registry
    from dsdiff.config.run import load_config
    from dsdiff.profiling import cost

    config = load_config(file)
    if options.allow_code:
        registry.trust_class(config.backbone.target, [file.parent])
    try:
        counts = cost.count_cost(config, options.size, options.size)
    except UserError as error:
        return [file.stem, str(error), *[""] * (len(COLUMNS) - 2)]

    measured_cost = cost.measure_cost(file, options.size, options.device, options.threads, counts)
    training = "not run (memory)" if measured_cost.training_gib is None else f"{measured_cost.training_gib:.2f}"
    return [
        file.stem,
        f"{counts.parameters / 1e6:.2f} M",
        f"{counts.macs / 1e9:.1f}",
        f"{measured_cost.seconds:.3f}",
        f"{measured_cost.inference_gib:.2f}",
        training,
        f"{counts.gpu_training_gib:.1f}",
        *_published_cells(_published_result(file, config)),
    ]


def _published_result(file: Path, config: "RunConfig") -> "PublishedResult | None":
    """The published result of a backbone; the original paper has no small ones."""
    from dsdiff.backbones import registry
    from dsdiff.comparison_report.published import PUBLISHED_RESULTS

    if file.stem.endswith("-small"):
        return None
    return PUBLISHED_RESULTS.get(registry.registered_name(config.backbone.target))


def _published_cells(published: "PublishedResult | None") -> list[str]:
    if published is None:
        return ["", "", ""]
    return [str(published.parameters_millions), str(published.seconds_per_sample), str(published.memory_gb)]
