"""dsdiff runs: what the runs in a folder have come to."""

from pathlib import Path
from typing import Annotated

import typer

from dsdiff.errors import OutputError


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", readable=False, help="A folder of runs, or one run.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where the curves are drawn. Default: runs.png in DIR.")
    ] = None,
) -> None:
    """List runs, the best validation first, and draw their curves into one picture.

    A run is a folder that dsdiff train made; those of a comparison are found in its subfolders. Validation losses
    compare between runs of one split, fold and loss alone.

    Example: dsdiff runs runs -o runs.png
    """
    from dsdiff.training import run_summary

    found, picture = run_summary.find(folder), out if out is not None else folder / "runs.png"
    typer.echo(run_summary.table(found))
    try:
        run_summary.draw(found, picture)
    except (OSError, ValueError) as error:
        raise OutputError(f"{picture} cannot be written: {error}") from error
    typer.echo(f"curves: {picture}", err=True)
