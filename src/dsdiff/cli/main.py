"""The program `dsdiff`: its commands are registered here. Heavy modules are imported only when a command runs."""

import os
import sys
from typing import Annotated, Any, NoReturn

import typer

from dsdiff import __version__
from dsdiff.cli import (
    backbones,
    cohort,
    compare,
    evaluate,
    export,
    import_config,
    import_weights,
    interpret,
    phantom,
    synth,
    train,
)
from dsdiff.errors import DsdiffError
from dsdiff.system import console, signals
from dsdiff.system.unicode_names import to_unicode

INTERRUPTED = 130  # exit code of typer after Ctrl-C: 128 + SIGINT
STOP_MESSAGE = "stopped; finished results are kept; run the same command (with --resume if it has one) to continue"
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # of click, or its copy inside newer releases of typer

app = typer.Typer(
    name="dsdiff",
    help="Synthesize the contrast-enhanced brain MRI (T1ce) from T1, T2 and FLAIR. Research use, not for diagnosis.\n\n"
    "Exit code of every command: 0 done, 1 a failure, 2 a mistake in the command or its inputs, 130 or 143 stopped by "
    "Ctrl-C or SIGTERM.",
    epilog="Start with: dsdiff demo. Then: dsdiff synth PATIENT -o OUT. Help of a command: dsdiff COMMAND --help",
    add_completion=False,
    rich_markup_mode=None,  # plain text: quick to print, and brackets are not lost
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("synth")(synth.command)
app.command("evaluate")(evaluate.command)
app.command("compare")(compare.command)
app.command("demo")(phantom.demo_command)
app.command("phantom")(phantom.phantom_command)
app.command("prepare")(cohort.prepare_command)
app.command("train")(train.train_command)
app.command("runs")(train.runs_command)
app.command("split")(cohort.split_command)
app.command("explain")(interpret.explain_command)
app.command("probe")(interpret.probe_command)
app.command("export")(export.command)
app.command("backbones")(backbones.command)
app.command("import-config")(import_config.command)
app.command("import-weights")(import_weights.command)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"dsdiff {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error: dsdiff --debug COMMAND.")
    ] = False,
) -> None:
    """Print the help if no command is given.

    Args:
        context: Context of typer.
        version: Print the version and exit.
        debug: Read from the command line by `run`.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run() -> None:
    """Run the command of the command line.

    An error prints one line. It shows its traceback only with --debug.

    Raises:
        SystemExit: Always. Exit code: 0 done, 1 a failure, 2 a mistake in the command or its inputs, 130 and 143
            stopped by Ctrl-C and SIGTERM.
    """
    shutdown = signals.install_sigterm_handler()
    try:
        with console.log_to_terminal():
            exit_code = app(standalone_mode=False) or 0
        if exit_code == INTERRUPTED:
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        typer.echo(STOP_MESSAGE, err=True)
        exit_code = shutdown.exit_code
    except Exception as error:
        if "--debug" in sys.argv and not isinstance(error, UsageError):
            raise
        message, exit_code = _describe_error(error)
        _print_error(message)
    sys.exit(exit_code)


def _describe_error(error: Exception) -> tuple[str, int]:
    """Return the message of an error and its exit code."""
    if isinstance(error, DsdiffError):
        return str(error), error.exit_code
    if isinstance(error, UsageError):
        usage_error: Any = error
        command = usage_error.ctx.command_path if usage_error.ctx else "dsdiff"
        return f"{usage_error.format_message()} (see {command} --help)", 2
    if isinstance(error, PermissionError):
        path = error.filename or "a file"
        return f"{path} cannot be read or written by this user; change its permissions, or choose another path", 2
    return f"{type(error).__name__}: {error}; internal error; run dsdiff --debug COMMAND for the traceback", 1


def exit_process(code: Any) -> NoReturn:
    """End the process. A process of torchrun ends without the shutdown of Python.

    Threads of gloo outlive their process group. A thread that releases a Python object during the shutdown would crash
    the process after its work is done.

    Args:
        code: Exit code, None for 0, or a message.

    Raises:
        SystemExit: If the process is not one of torchrun.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


def _print_error(message: str) -> None:
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(to_unicode(" ".join(message.split())), err=True)
