"""dsdiff explain: which input drove each enhancement?"""

from pathlib import Path
from typing import Annotated

import typer


def command(
    case: Annotated[Path, typer.Argument(metavar="CASE", help="The folder of one case (BraTS or BIDS names).")],
    out: Annotated[Path, typer.Option("-o", "--out", readable=False, help="The picture, a PNG.")] = Path("explain.png"),
    model: Annotated[str, typer.Option(help="A shipped model's name or a model folder.")] = "default",
    samples: Annotated[int, typer.Option(min=1, help="Samples, for a model that tells no error.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Draw which input drove each enhancement, what the network saw, and how sure it is.

    The case is synthesised again without each contrast in turn: withheld where the model was trained for that, else
    exchanged for its own mirror image. What of the enhancement goes is mapped, and told for the largest enhancements.
    It says what the network did, not what the tissue did.

    Example: dsdiff explain BraTS2021_01657 -o explain.png
    """
    from rich.console import Console

    from dsdiff.inference import model as models
    from dsdiff.interpret import occlusion, occlusion_figure
    from dsdiff.io import cases
    from dsdiff.preprocessing import normalize
    from dsdiff.reporting import preview
    from dsdiff.system import atomic
    from dsdiff.system import device as devices
    from dsdiff.system.console import bars, say

    one = cases.only(case, "what is explained")
    atomic.refuse_picture(out)
    devices.set_threads(threads)
    loaded = models.load(model, devices.pick(device))
    wanted = loaded.wanted(one.named)
    prepared = normalize.apply(cases.load(one, wanted), loaded.config.data.source_contrast)
    steps = loaded.sampler.steps or loaded.process.usual_steps(samples)
    drawn = samples if loaded.process.varies(steps) else 1
    console = Console(stderr=True)
    with bars(console) as progress:
        task = progress.add_task(one.name, total=1.0)
        told = occlusion.explain(prepared, loaded, drawn, lambda share: progress.update(task, completed=share))
    for number, enhancement in enumerate(told.found, 1):
        owed = ", ".join(f"{name} {share:+.0%}" for name, share in enhancement.owed.items())
        size = f"{enhancement.ml:.1f} ml above {occlusion.ENHANCES} robust SD"
        typer.echo(f"enhancement {number}: {size} at voxel {prepared.voxel(enhancement.point)}, owed to {owed}")
    if not told.found:
        typer.echo(f"nothing enhances by {occlusion.ENHANCES} robust SD in {occlusion.LEAST_ML} ml or more")
    for warning in told.result.warnings:
        say(console, f"warning: {warning}", "yellow")
    with atomic.whole_file(out) as picture:
        preview.save(occlusion_figure.draw(told, loaded, f"{one.name}   model {loaded.name} {loaded.hash}"), picture)
    typer.echo(out)
