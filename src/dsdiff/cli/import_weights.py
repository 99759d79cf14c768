"""The command `dsdiff import-weights`, which turns the checkpoint of another program into a model folder."""

from pathlib import Path
from typing import Annotated

import typer

MAX_SKIPPED_NAMES = 4  # classes that the output lists


def command(
    weights: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="File of another program: .ckpt, .pt, .pth or .safetensors.")
    ],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="MODEL", readable=False, help="Model folder to write. It must not exist."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to the config, such as process.params.prediction=v."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="OLD.yaml",
            help="Config of the training, in the form of its program or of dsdiff. Default: infer it from the weights.",
        ),
    ] = None,
    ema: Annotated[
        bool | None,
        typer.Option(
            "--ema/--no-ema",
            help="Averaged weights, or those of the last step. Default: averaged weights if the file has them.",
        ),
    ] = None,
) -> None:
    """Import weights that another program trained.

    Reads checkpoints of Lightning (latent diffusion, DS-Diff), guided-diffusion, DisC-Diff and DiT, plain state dicts,
    and safetensors. Nothing in the file is run: objects other than tensors are skipped, and a file that could run code
    is refused. The weights must fit the network exactly. dsdiff synth, evaluate, export and train (training.init_from)
    take the model folder. Its README.md lists what was assumed.

    Examples:

        dsdiff import-weights last.ckpt --config v2-1-cddpm-disc.yaml -o mine

        dsdiff import-weights ema_0.9999_100000.pt backbone.params.num_head_channels=48 -o mine

        dsdiff synth PATIENT --model mine -o out
    """
    from dsdiff.config.import_weights import check_new_folder, import_weights, save_imported
    from dsdiff.system.console import print_line

    check_new_folder(out)
    model = import_weights(weights, config, tuple(overrides or ()), ema)
    save_imported(model, weights, config, out)

    print_line(f"{weights.name}: {model.origin}, {model.n_parameters / 1e6:.2f} M parameters")
    if model.skipped_names:
        ellipsis = ", ..." if len(model.skipped_names) > MAX_SKIPPED_NAMES else ""
        print_line(f"skipped, not run: {', '.join(model.skipped_names[:MAX_SKIPPED_NAMES])}{ellipsis}")
    for assumption in model.assumptions:
        print_line(f"note: {assumption}")
    print_line(f"-> {out} (not evaluated); next: dsdiff synth CASE --model {out}")
