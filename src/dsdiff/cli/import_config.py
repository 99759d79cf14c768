"""dsdiff import-config: a config of the latent-diffusion family becomes one of ours."""

from pathlib import Path
from typing import Annotated

import typer

from dsdiff.errors import OutputError


def command(
    old: Annotated[Path, typer.Argument(metavar="OLD.yaml", help="A file with model, params and unet_config.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", readable=False, help="The file to write; it must not exist.")
    ] = None,
) -> None:
    """Turn a latent-diffusion config into one of dsdiff.

    Every key that cannot be honoured is named with the reason, on stderr and as comments in the new file. Nothing that
    the old file names is imported, and weights are not touched.

    Example: dsdiff import-config cddpm.yaml -o configs/cddpm.yaml
    """
    from dsdiff.config import latent_diffusion
    from dsdiff.config import run as configs
    from dsdiff.system import atomic

    if out is not None and out.exists():
        raise OutputError(f"{out} exists already; choose another -o")
    imported = latent_diffusion.load(old)
    notes = "".join(f"#   {note}\n" for note in imported.notes)
    text = f"# From {old.name} by dsdiff import-config. Not as it was there:\n{notes}{configs.dump(imported.config)}"
    for note in imported.notes:
        typer.echo(note, err=True)
    if out is None:
        typer.echo(text, nl=False)
        return
    atomic.write_whole(out, text)
