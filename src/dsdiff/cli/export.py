"""dsdiff export: a model for another runtime."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A shipped model's name or a model folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", readable=False, help="The folder to write.")],
    to: Annotated[str, typer.Option("--to", help="onnx, openvino or torch-export.")],
    precision: Annotated[
        str, typer.Option(help="That it will run in: fp32, or bf16 (openvino). Default: bf16 where there is any.")
    ] = "auto",
    check: Annotated[
        Path | None,
        typer.Option(metavar="CASE", help="Folder of the patient to compare on. Default: the bundled phantom."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Write a model as graphs that another runtime runs, and dsdiff synth too.

    OUT gets one graph that makes the condition of a slice, where there is anything to make, and one that denoises;
    sides and batch are dynamic. Before OUT appears, both are run beside the network on slices of a patient, and
    refused where they differ: by more than 1e-4 of the largest value in fp32, below 45 dB in bf16 (exit code 1).
    Needs pip install 'dsdiff-mri[onnx]' or 'dsdiff-mri[openvino]'; torch-export needs nothing more.

    Examples:

        dsdiff export default exported --to openvino

        dsdiff export runs/mine/model exported --to onnx --check PATIENT

        dsdiff synth PATIENT --model exported -o out
    """
    import torch
    from rich.console import Console

    from dsdiff.inference import export
    from dsdiff.inference import model as models
    from dsdiff.io import cases
    from dsdiff.system import device as devices
    from dsdiff.system.console import bars, say

    devices.set_threads(threads)
    case = cases.only(check, "what --check takes") if check is not None else None
    console = Console(stderr=True)
    loaded = models.load(model, torch.device("cpu"))
    with bars(console) as progress:
        task = progress.add_task("", total=1.0)
        facts = export.export(
            loaded, out, to, precision=precision, check=case,
            progress=lambda doing, share: progress.update(task, description=doing, completed=share),
        )  # fmt: skip
    for taken, near in facts.check.items():
        typer.echo(f"{taken}: differs by {near.difference:.1e} of the largest value at most, PSNR {near.psnr:.1f} dB")
    say(console, f"-> {out}")
