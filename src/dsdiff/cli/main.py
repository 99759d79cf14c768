"""The command `dsdiff`: commands are registered here and live in a file each. Nothing heavy is imported for --help."""

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from dsdiff import __version__
from dsdiff.cli import (
    backbones,
    compare,
    demo,
    evaluate,
    explain,
    export,
    import_config,
    phantom,
    prepare,
    probe,
    runs,
    split,
    synth,
    train,
)
from dsdiff.errors import DsdiffError
from dsdiff.system import signals

INTERRUPTED = 130  # what typer ends with after Ctrl-C: 128 + SIGINT
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # click's, or the copy of it inside newer releases of typer

app = typer.Typer(
    name="dsdiff",
    help="Synthesise the contrast-enhanced brain MRI (T1ce) from T1, T2 and FLAIR. Research use, not for diagnosis.",
    epilog="Start with: dsdiff demo. Then: dsdiff synth PATIENT -o OUT",
    add_completion=False,
    rich_markup_mode=None,  # plain: quick to print, and nothing in brackets is lost
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("synth")(synth.command)
app.command("evaluate")(evaluate.command)
app.command("compare")(compare.command)
app.command("demo")(demo.command)
app.command("phantom")(phantom.command)
app.command("prepare")(prepare.command)
app.command("train")(train.command)
app.command("runs")(runs.command)
app.command("split")(split.command)
app.command("explain")(explain.command)
app.command("probe")(probe.command)
app.command("export")(export.command)
app.command("backbones")(backbones.command)
app.command("import-config")(import_config.command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dsdiff {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run() -> None:
    """Entry point: a mistake of the user's is one line and exit code 2, a fault of ours is exit code 1."""
    heard = signals.heed()
    try:
        code = app(standalone_mode=False) or 0
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        sys.exit(code)
    except DsdiffError as error:
        if "--debug" in sys.argv:
            raise
        _say(str(error))
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo(
            "stopped; what was finished stays, the same command (with --resume where it has one) goes on", err=True
        )
        sys.exit(heard.exit_code)
    except UsageError as error:
        told: Any = error
        command = told.ctx.command_path if told.ctx else "dsdiff"
        _say(f"{told.format_message()} (see {command} --help)")
        sys.exit(2)
    except PermissionError as error:
        if "--debug" in sys.argv:
            raise
        _say(f"{error.filename} may not be read or written by this user; change its permissions, or give another place")
        sys.exit(2)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        _say(f"{type(error).__name__}: {error}; this is a fault of dsdiff: dsdiff --debug COMMAND shows where")
        sys.exit(1)


def leave(code: Any) -> NoReturn:
    """End the process. One of torchrun's ends without Python's own end: threads of gloo outlive their group, and one
    that lets go of something of Python's while that ends would take the process down after its work was done.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


def _say(message: str) -> None:
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(" ".join(message.split()), err=True)
