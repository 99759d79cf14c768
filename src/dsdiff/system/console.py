"""What every command says and how far it is."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def bars(console: Console, *, count: bool = False) -> Progress:
    """Bars with elapsed time and ETA, in percent or as a count; nothing where the output is not a terminal."""
    amount: ProgressColumn = MofNCompleteColumn() if count else TaskProgressColumn()
    return Progress(
        TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn(), TextColumn("ETA"),
        TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


def say(console: Console, text: str, style: str | None = None) -> None:
    """A line as it is: names may hold brackets and numbers, and whoever copies it wants no line breaks."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
