"""dsdiff train: one YAML is one run."""

from pathlib import Path
from typing import Annotated

import typer


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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config and the size, then stop.")
    ] = False,
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Import the class that CONFIG names by a dotted path: it runs its code."),
    ] = False,
) -> None:
    """Train a model; the same command resumes it.

    The run folder holds config.yaml (resolved), log.jsonl, samples/ (pictures: T1, T2, FLAIR, prediction, truth),
    the state to resume from, and at the end model/, which synth takes: dsdiff synth CASE --model RUN/model.

    Another backbone is one word: backbone=dit-small takes that block from configs/backbones (dsdiff backbones lists
    them), or from a YAML of yours.

    Example: dsdiff train bridge-small data.root=cohort data.split=split.json data.fold=0 -o runs/fold0
    """
    import torch
    from rich.console import Console

    from dsdiff import config as configs
    from dsdiff.backbones import registry

    loaded = configs.load(config, tuple(overrides or ()))
    if allow_code:
        registry.allow(loaded.backbone.target)
    console = Console(stderr=True)
    for doubt in registry.doubts(loaded.backbone):
        console.print(f"note: {doubt}", markup=False, highlight=False, soft_wrap=True)
    with torch.device("meta"):
        n = sum(parameter.numel() for parameter in loaded.build_network().parameters())
    if dry_run:
        typer.echo(configs.dump(loaded) + f"# {n / 1e6:.2f} M parameters")
        return
    from dsdiff import device as devices
    from dsdiff.training import loop

    devices.set_threads(threads)
    model = loop.train(loaded, run or Path("runs") / Path(config).stem, devices.pick(device), console)
    trust = f" --allow-code {config}" if allow_code else ""
    console.print(f"done: dsdiff synth CASE --model {model}{trust}", markup=False, highlight=False, soft_wrap=True)
