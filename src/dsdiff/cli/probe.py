"""dsdiff probe: is a run disentangled?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdiff.errors import ConfigError

if TYPE_CHECKING:
    from dsdiff.io.cases import Case


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a model folder with --cases.")],
    folder: Annotated[
        Path | None, typer.Option("--cases", help="Patients to probe. Default: those that RUN held out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", readable=False, help="The picture. Default: RUN/probe.png.")
    ] = None,
    most: Annotated[int, typer.Option(min=2, help="Patients at most.")] = 16,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Measure whether shared and specific features are what their names say.

    A linear probe, tried on patients that it did not see, must not tell the contrast from the shared code and must
    from the specific one. With the swap decoder (conditioning.disentangle: target swap), a contrast's shared code with
    another's specific one must look like the other and keep the edges of the first. Exit code 0 where all were tried
    and passed, else 1.

    Example: dsdiff probe runs/fold0
    """
    from rich.console import Console

    from dsdiff.inference import model as models
    from dsdiff.interpret import linear_probe, linear_probe_figure
    from dsdiff.reporting import preview
    from dsdiff.system import atomic
    from dsdiff.system import device as devices
    from dsdiff.system.console import bars

    picture = out or run / "probe.png"
    atomic.refuse_picture(picture)
    devices.set_threads(threads)
    model = models.load(run / "model" if (run / "model").is_dir() else run, devices.pick(device))
    chosen = _cases(run, folder)[:most]
    with bars(Console(stderr=True), count=True) as progress:
        seen = [linear_probe.look(case, model) for case in progress.track(chosen, description="encoding patients")]
    verdict = linear_probe.judge(seen)
    typer.echo(f"{verdict.patients} patients, model {model.hash}")
    for said, passed in verdict.checks.items():
        typer.echo(f"{'not tried' if passed is None else 'pass' if passed else 'FAIL':10}{said}")
    typer.echo(verdict.word)
    with atomic.whole_file(picture) as beside:
        preview.save(linear_probe_figure.draw(seen[0], model, f"{seen[0].name}   model {model.hash}"), beside)
    typer.echo(picture)
    if not verdict.disentangled:
        raise typer.Exit(1)


def _cases(run: Path, folder: Path | None) -> "list[Case]":
    """The patients to probe. Raises `ConfigError` where nobody names any."""
    from dsdiff.config import run as configs
    from dsdiff.data import splits, store
    from dsdiff.io import cases
    from dsdiff.model import checkpoint

    if folder is not None:
        return cases.discover(folder)
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} is no folder of a run or a model (with config.yaml), so name patients by --cases DIR")
    data = configs.load(run / "config.yaml").data
    if data.root is None or data.split is None or data.fold is None:
        raise ConfigError(f"{run} held no patients out; name some by --cases DIR")
    model = run / "model" if (run / "model").is_dir() else run
    splits.refuse_other_fold(checkpoint.read(model).facts, data.split, data.fold, run)
    if store.is_store(data.root):
        raise ConfigError(f"{run} was trained from a store, which keeps no files: name patients by --cases DIR")
    return cases.named(data.root, splits.read(data.split).held_out(data.fold))
