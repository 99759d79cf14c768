"""The command `dsdiff import-config`, which converts a config of another program."""

from pathlib import Path
from typing import Annotated

import typer

from dsdiff.errors import OutputError


def command(
    original_config: Annotated[
        Path,
        typer.Argument(
            metavar="OLD.yaml",
            help="Config of latent diffusion (model, params, unet_config), of guided-diffusion or DisC-Diff (flat), or "
            "a train_config or inference_config of the original DS-Diff.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", readable=False, help="YAML file to write. It must not exist. Default: print it."),
    ] = None,
) -> None:
    """Convert a config of latent diffusion, guided-diffusion, DisC-Diff or DS-Diff.

    The command lists every key that it does not convert, with what dsdiff does instead, on stderr and as comments in
    the new config. It ends with exit code 2 if the network cannot be built here. It imports no code that the old
    config names, and does not read weights.

    Example: dsdiff import-config cddpm.yaml -o configs/cddpm.yaml
    """
    from dsdiff.config.import_config import import_config
    from dsdiff.config.run import dump_config
    from dsdiff.system import atomic

    if out is not None and out.exists():
        raise OutputError(f"{out} exists already; choose another file with -o")

    imported = import_config(original_config)
    for note in imported.notes:
        typer.echo(note, err=True)
    comments = "".join(f"#   {note}\n" for note in imported.notes)
    title = f"# From {original_config.name} by dsdiff import-config. Keys that were not converted or change meaning:\n"
    text = title + comments + dump_config(imported.config)
    if out is None:
        typer.echo(text, nl=False)
    else:
        atomic.atomic_write_text(out, text)
