"""dsdiff backbones: which there are, and what they cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdiff.errors import ConfigError, UserError

if TYPE_CHECKING:
    from rich.console import Console


def command(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG]...", help="What to profile: YAMLs or names. Default: all of configs/backbones."
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Measure what each costs, beside what was printed.")
    ] = False,
    size: Annotated[int, typer.Option(min=16, help="Side of the slice, pixels.")] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Import the classes that these configs name by a dotted path.")
    ] = False,
) -> None:
    """List the backbones, one line each; with --profile, what each costs.

    GMAC: 10^9 multiply-accumulates of one forward of one slice, attention included. s: seconds of one forward of one
    slice (CPU seconds with one thread). GiB: memory above the empty process, of that forward and of one training step
    of one slice. GPU: estimated from the activations, training at batch 8 in bf16, never measured. The last three
    columns are the original's table: parameters, seconds a sample, GB.

    Example: dsdiff backbones --profile dit-table dit-as-written --size 256
    """
    from rich.console import Console

    from dsdiff.backbones import registry
    from dsdiff.config import overrides

    if not profile and (files or allow_code):
        raise ConfigError("a CONFIG is for profiling: add --profile")
    if not profile:
        for name, line in registry.summaries().items():
            typer.echo(f"{name:18}{line}")
        typer.echo("\nIn a config: backbone: {target: NAME, params: {...}}. Ready ones: dsdiff train CONFIG backbone=")
        typer.echo(", ".join(overrides.ready("backbones")))
        return
    paths = [overrides.find(name) for name in files or overrides.ready("backbones")]
    _profile(paths, size, device, threads, allow_code, Console(stderr=True))


def _profile(paths: list[Path], size: int, device: str, threads: int, allow_code: bool, console: "Console") -> None:
    from dsdiff.backbones import registry
    from dsdiff.comparison.published import PRINTED
    from dsdiff.config import run as configs
    from dsdiff.profiling import cost as profile
    from dsdiff.system.console import bars

    typer.echo(
        "| config | parameters | GMAC | s | GiB inference | GiB training | GPU GiB (estimate) | printed: M | s | GB |"
    )
    typer.echo("|---" * 10 + "|")
    with bars(console) as progress:
        task = progress.add_task("profiling", total=len(paths))
        for path in paths:
            progress.update(task, description=f"profiling {path.stem}")
            config = configs.load(path)
            if allow_code:
                registry.allow(config.backbone.target)
            try:
                counted = profile.count(config, size, size)
            except UserError as error:
                typer.echo(f"| {path.stem} | {error} |" + " |" * 8)
                progress.advance(task)
                continue
            measured = profile.measure(path, size, device, threads, counted)
            training = "not run (memory)" if measured.training is None else f"{measured.training:.2f}"
            said = None if path.stem.endswith("-small") else PRINTED.get(registry.name_of(config.backbone.target))
            cells = [
                path.stem,
                f"{counted.parameters / 1e6:.2f} M",
                f"{counted.macs / 1e9:.1f}",
                f"{measured.seconds:.3f}",
            ]
            cells += [f"{measured.inference:.2f}", training, f"{counted.gpu_training:.1f}"]
            cells += [str(said.parameters), str(said.seconds), str(said.memory)] if said else ["", "", ""]
            typer.echo(f"| {' | '.join(cells)} |")
            progress.advance(task)
