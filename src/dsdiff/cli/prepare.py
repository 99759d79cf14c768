"""dsdiff prepare: a cohort, prepared once for every training."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dsdiff.data.store import Settings


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of cases.")],
    root: Annotated[Path, typer.Argument(metavar="STORE", readable=False, help="The store: made, or added to.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that prepare cases.")] = 1,
    contrasts: Annotated[
        str, typer.Option(help="Source contrasts, the one whose brain is taken first; the others may be absent.")
    ] = "t1,t2,flair",
    target: Annotated[str, typer.Option(help="The contrast to be made; no case goes without.")] = "t1ce",
    planes: Annotated[
        str, typer.Option(help="Planes that slices are to be read along (data.planes); each takes as much space.")
    ] = "axial",
    split: Annotated[
        Path | None, typer.Option(metavar="SPLIT.json", help="Folds of these cases, kept in the store as split.json.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Take out of STORE the cases that DIR no longer holds.")
    ] = False,
) -> None:
    """Prepare a cohort once, for every training that follows.

    Every case is read, scaled (robust z-scores) and cut to its brain, and kept in STORE: one compressed and
    checksummed file each, of which training reads the slices that it draws, so that its memory does not grow with the
    cohort. The same command goes on where it was stopped, adds the cases that are new, makes anew what was changed or
    damaged, and leaves the rest; cases that DIR no longer holds are named, and taken out with --prune. A case that
    cannot be prepared is named with its reason and does not stop the others (exit code 1). STORE/contact.png shows a
    slice of up to 24 cases: look at it.

    Examples:

        dsdiff prepare cohort store --workers 4

        dsdiff train bridge-small data.root=store

        dsdiff prepare cohort store --planes axial,coronal,sagittal
    """
    from rich.console import Console

    from dsdiff.data import build_store, splits, store
    from dsdiff.reporting import contact_sheet
    from dsdiff.system import atomic
    from dsdiff.system.console import say

    console = Console(stderr=True)
    settings = _settings(contrasts, target, planes)
    if split is not None:
        splits.read(split)  # what cannot be read is said before the long work
    report = build_store.prepare(folder, root, settings, workers, console, prune)
    for line in report.lines():
        say(console, line)
    if report.entries:
        with atomic.writing(root):
            contact_sheet.draw(store.open_store(root), root / contact_sheet.NAME)
        if split is not None:
            build_store.keep_split(split, root, report)
        say(console, f"done: dsdiff train CONFIG data.root={root}")
    if report.failed:
        raise typer.Exit(1)


def _settings(contrasts: str, target: str, planes: str) -> "Settings":
    """What the options ask for. Raises `ConfigError` for what no file has, and for what no training could ask for."""
    from pydantic import ValidationError

    from dsdiff.data.settings import DataConfig
    from dsdiff.data.store import Settings
    from dsdiff.errors import ConfigError
    from dsdiff.io import cases
    from dsdiff.preprocessing.planes import PLANES
    from dsdiff.schema import format_validation_error

    start, *others = (name.strip() for name in contrasts.split(","))
    wanted = tuple(plane for plane in PLANES if plane in (name.strip() for name in planes.split(",")))
    if len(wanted) != len(planes.split(",")):
        raise ConfigError(f"--planes is '{planes}'; it takes {', '.join(PLANES)}, each once, between commas")
    if unknown := sorted({start, *others, target} - {*cases.NAMES.values()}):
        raise ConfigError(
            f"no file's name tells '{unknown[0]}'; known are {', '.join(sorted({*cases.NAMES.values()}))}"
        )
    settings = Settings((start, *others), start, target, wanted)
    try:
        DataConfig(**asdict(settings))
    except ValidationError as error:
        raise ConfigError(format_validation_error(error)) from error
    return settings
