"""dsdiff train: one YAML is one run."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdiff.errors import ConfigError

if TYPE_CHECKING:
    from dsdiff.config.run import RunConfig


def command(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML, or the name of one in configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, as in training.steps=100.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("-o", "--run", readable=False, help="The run folder. Default: runs/ and the name of CONFIG."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. Default: OMP_NUM_THREADS, or the cores there are.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that make batches ahead of time; they change no result.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config, its size and the memory it takes, then stop.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(help="With --dry-run: the batch and the rate that fit so much, as in 12GB.")
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Import the class that CONFIG names by a dotted path: it runs its code."),
    ] = False,
) -> None:
    """Train a model; the same command resumes it.

    The run folder holds config.yaml (resolved), log.jsonl, samples/ (pictures: T1, T2, FLAIR, prediction, truth),
    the state to resume from, best/ (the model that validated best) and at the end model/, which synth takes:
    dsdiff synth CASE --model RUN/model. SIGTERM and Ctrl-C save the state first.

    Several processes, here or on several machines: torchrun --nproc-per-node 4 -m dsdiff train ... (docs/training.md).

    Another backbone is one word: backbone=dit-small takes that block from configs/backbones (dsdiff backbones lists
    them), or from a YAML of yours.

    Example: dsdiff train bridge-small data.root=cohort data.split=split.json data.fold=0 -o runs/fold0
    """
    from rich.console import Console

    from dsdiff.backbones import registry
    from dsdiff.config import run as configs
    from dsdiff.system.console import say

    if memory is not None and not dry_run:
        raise ConfigError("--memory goes with --dry-run")
    loaded = configs.load(config, tuple(overrides or ()))
    if allow_code:
        registry.allow(loaded.backbone.target)
    console = Console(stderr=True)
    for doubt in registry.doubts(loaded.backbone):
        say(console, f"note: {doubt}")
    if dry_run:
        typer.echo(configs.dump(loaded) + _size(loaded, device, memory))
        return
    from dsdiff.system import device as devices
    from dsdiff.training import loop

    devices.set_threads(threads)
    model = loop.train(loaded, run or Path("runs") / Path(config).stem, devices.pick(device), console, workers)
    trust = f" --allow-code {config}" if allow_code else ""
    say(console, f"done: dsdiff synth CASE --model {model}{trust}")


def _size(config: "RunConfig", device: str, memory: str | None) -> str:
    """Comments below the resolved config: what it takes, and what would fit."""
    from dsdiff.profiling import cost
    from dsdiff.profiling import memory as fit
    from dsdiff.system import device as devices

    settings, (height, width) = config.training, config.data.crop
    counted = cost.count(config, height, width)
    precision = devices.precision_of(devices.pick(device), settings.precision)
    needed = fit.need(config, counted, precision != "fp32", int(os.environ.get("WORLD_SIZE", "1")))
    told = [
        f"{counted.parameters / 1e6:.2f} M parameters, {counted.macs / 1e9:.2f} GMAC a slice of {height} x {width}",
        f"about {needed.of(settings.batch_size) / 1e9:.2f} GB at batch_size {settings.batch_size} in {precision}: "
        f"{needed.fixed / 1e9:.2f} for weights, gradients, moments and averages, {needed.slice / 1e9:.3f} a slice",
    ]
    if memory is not None:
        fits = fit.fit(config, needed, fit.parse(memory))
        told += [
            f"{memory} fits training.batch_size={fits.batch_size} training.accumulate={fits.accumulate} "
            f"training.lr={fits.lr:.3g}",
            f"at most {fits.most} slices at once, with training.lr={fits.most_lr:.3g} (the square root of the batch)",
        ]
    return "\n".join(f"# {line}" for line in told)
