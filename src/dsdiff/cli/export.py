"""The command `dsdiff export`, which writes a model for another runtime."""

from pathlib import Path
from typing import Annotated

import typer

from dsdiff.cli.options import Threads


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a shipped model, or a model folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", readable=False, help="Folder to write.")],
    to: Annotated[str, typer.Option("--to", help="Format: onnx, openvino or torch-export.")],
    precision: Annotated[
        str,
        typer.Option(
            help="Precision in which it will run: auto, fp32, or bf16 (openvino only). auto: bf16 if possible."
        ),
    ] = "auto",
    check: Annotated[
        Path | None,
        typer.Option(metavar="CASE", help="Case folder for the comparison. Default: the bundled phantom."),
    ] = None,
    threads: Threads = None,
) -> None:
    """Export a model to ONNX, OpenVINO or torch.export.

    OUT gets a graph that denoises, and a graph that computes the condition of a slice if the model needs one. Slice
    size and batch size stay free. dsdiff synth runs the exported model like any other. Before OUT appears, the graphs
    are compared with the network on slices of a case. The export fails (exit code 1) if they differ by more than 1e-4
    of the largest value in fp32, or have a PSNR below 45 dB in bf16. Needs: pip install 'dsdiff-mri[onnx]' or
    'dsdiff-mri[openvino]'; torch-export needs nothing more.

    Examples:

        dsdiff export default exported --to openvino

        dsdiff export runs/mine/model exported --to onnx --check PATIENT

        dsdiff synth PATIENT --model exported -o out
    """
    import torch

    from dsdiff.export import export_model
    from dsdiff.inference.model import load_model
    from dsdiff.io.cases import discover_single_case
    from dsdiff.system.console import print_line, progress_bars
    from dsdiff.system.device import set_threads

    set_threads(threads)
    case = discover_single_case(check, "--check") if check is not None else None
    loaded = load_model(model, torch.device("cpu"))

    with progress_bars() as report:
        metadata = export_model.export_model(loaded, out, to, precision=precision, case=case, progress=report)

    for graph, parity in metadata.parity.items():
        difference = f"largest difference {parity.difference:.1e} of the largest value"
        typer.echo(f"{graph}: {difference}, PSNR {parity.psnr:.1f} dB")
    print_line(f"-> {out}")
