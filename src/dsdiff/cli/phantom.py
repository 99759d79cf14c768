"""dsdiff phantom: simulated patients."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Each phantom becomes a case folder in OUT.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first; the next has the next seed.")] = 0,
    target_style: Annotated[
        Literal["same", "own"],
        typer.Option(help="same: T1ce by T1's own sequence; own: by another, as in many hospitals."),
    ] = "same",
    noise: Annotated[float, typer.Option(min=0, help="Multiplies the noise; 0 for none.")] = 1.0,
) -> None:
    """Simulate patients whose enhancement is known.

    Each gets T1, T1ce, T2, FLAIR, segmentation and the true enhancement. Tissue maps (ICBM) are deformed at random,
    given tumours of many looks, and imaged by the signal equations of spin echo, gradient echo and inversion recovery.
    Needs: pip install 'dsdiff-mri[phantom]'. The same seed gives the same patient; phantoms that stand in OUT already
    are kept; others by their names, and a folder with phantoms of an older dsdiff, are refused.

    Example: dsdiff phantom phantoms -n 20 --seed 0
    """
    from rich.console import Console

    from dsdiff.phantom import files, simulate
    from dsdiff.system.console import bars, say

    console = Console(stderr=True)
    files.same_generation(out)
    with bars(console) as progress:
        task = progress.add_task("simulating", total=number)
        for one in range(seed, seed + number):
            if not files.stands(out, one, target_style, noise):
                files.write(simulate.simulate(one, target_style=target_style, noise=noise), out)
            progress.advance(task)
    say(console, f"{number} phantoms in {out}")
