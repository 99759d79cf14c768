"""The commands `dsdiff phantom`, which simulates patients, and `dsdiff demo`, which synthesizes a bundled one."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from dsdiff.cli.options import Threads


def phantom_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of cases: each phantom becomes a case folder.")],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Number of phantoms.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom. Each further phantom adds 1.")] = 0,
    target_style: Annotated[
        Literal["same", "own"],
        typer.Option(help="same: T1ce has the sequence of T1. own: T1ce has its own sequence, as in many hospitals."),
    ] = "same",
    noise: Annotated[float, typer.Option(min=0, help="Noise, as a multiple of the usual noise; 0 is no noise.")] = 1.0,
) -> None:
    """Simulate patients whose true enhancement is known.

    Needs: pip install 'dsdiff-mri[phantom]'.

    Writes a case folder for each phantom: T1, T1ce, T2, FLAIR, a segmentation and the true enhancement, on the grid of
    BraTS (1 mm). The ICBM tissue maps are deformed at random, and tumours of many kinds are added. The signal equations
    of spin echo, gradient echo and inversion recovery give the images. The same seed gives the same patient. Phantoms
    that OUT already holds are kept. The command stops if OUT holds other files with their names, or phantoms of an
    older dsdiff.

    Example: dsdiff phantom phantoms -n 20 --seed 0
    """
    from dsdiff.phantom import files, simulate
    from dsdiff.system.console import print_line, progress_bars
    from dsdiff.system.output_checks import check_writable

    check_writable(out / simulate.case_name(seed))
    files.check_generation(out)
    with progress_bars(count=True) as report:
        for index in range(number):
            report("simulating", index, number)
            case_seed = seed + index
            if not files.phantom_exists(out, case_seed, target_style, noise):
                phantom = simulate.simulate_phantom(case_seed, target_style=target_style, noise=noise)
                files.write_phantom(phantom, out)
        report("simulating", number, number)
    print_line(f"{number} phantom{'' if number == 1 else 's'} in {out}")


def demo_command(
    out: Annotated[
        Path, typer.Option("-o", "--out", readable=False, help="Folder of the results and the report.")
    ] = Path("demo"),
    threads: Threads = None,
) -> None:
    """Run the shipped model on a simulated patient.

    The command needs no data of your own. It synthesizes the T1ce of a phantom that comes with the package, and writes
    the usual results and a one-page report.html that compares them with the true enhancement of the phantom. It takes
    seconds and needs no network connection.

    Example: dsdiff demo -o demo
    """
    from dsdiff.inference import demo
    from dsdiff.system.console import print_line, progress_bars
    from dsdiff.system.device import set_threads

    set_threads(threads)
    with progress_bars() as report:
        page = demo.run_demo(out, lambda fraction: report("synthesizing", fraction, 1.0))
    print_line(f"open {page}")
