"""dsdiff demo: a bundled phantom patient through the shipped model, with the true answer beside it."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option("-o", "--out", readable=False, help="The folder of the demonstration.")] = Path(
        "demo"
    ),
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. Default: OMP_NUM_THREADS, or the cores there are.")
    ] = None,
) -> None:
    """See what dsdiff does, without any data of your own.

    Synthesises the T1ce of a simulated patient that comes with the package and writes, beside the usual results, a
    one-page report.html with the phantom's true answer. Takes seconds, needs no network.
    """
    from rich.console import Console

    from dsdiff.inference import demo
    from dsdiff.system import device as devices
    from dsdiff.system.console import bars, say

    console = Console(stderr=True)
    devices.set_threads(threads)
    with bars(console) as progress:
        task = progress.add_task("synthesising", total=1.0)
        report = demo.run(out, lambda share: progress.update(task, completed=share))
    say(console, f"open {report}")
