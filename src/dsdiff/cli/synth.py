"""dsdiff synth: patients in, T1ce out."""

import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dsdiff.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from dsdiff.inference.model import Model
    from dsdiff.inference.options import Sampling
    from dsdiff.inference.style_reference import Reference
    from dsdiff.io.cases import Case

Style = Annotated[
    Path | None,
    typer.Option(
        metavar="CASE",
        help="Folder of another patient of the same scanner, with T1ce and T1, T2, FLAIR: its tissue contrast is "
        "taken. Default: that of the training patients most like the case (or the average).",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads. Default: OMP_NUM_THREADS, or as many as are measured to pay."),
]
Engine = Annotated[
    str,
    typer.Option(
        help="What computes the network: auto, fast (bf16 where the machine has it, channels last), eager "
        "(float32, as trained), compiled (minutes at first), openvino (converts the model, once). They agree within "
        "rounding."
    ),
]
Guidance = Annotated[
    float,
    typer.Option(
        min=0,
        help="Above 1, led away from what T1 alone would give (classifier-free guidance): more enhancement and error, "
        "twice the time. For models trained with contrast dropout.",
    ),
]
Memory = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="GB",
        help="Ceiling of memory: fewer slices side by side, one case at a time, the same result. Default: none.",
    ),
]


def command(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUT...", help="A case folder, or a folder of cases (BraTS or BIDS names)."),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", readable=False, help="Results go to OUT/<case>/.")] = Path("out"),
    t1: Annotated[Path | None, typer.Option("--t1", help="T1 of one patient, instead of INPUT.")] = None,
    t2: Annotated[Path | None, typer.Option("--t2", help="T2 of that patient.")] = None,
    flair: Annotated[Path | None, typer.Option("--flair", help="FLAIR of that patient.")] = None,
    case: Annotated[
        str | None, typer.Option(help="Name of the case given by --t1 --t2 --flair. Default: from the name of T1.")
    ] = None,
    model: Annotated[str, typer.Option(help="A shipped model's name or a model folder, exported or not.")] = "default",
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sampling steps. Default: the model's; a bridge takes 1 (the mean), 4 with --samples. "
            "Time grows with steps times samples.",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(min=1, help="Above 1 their mean is written; the shipped model is calibrated without."),
    ] = 1,
    style: Style = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples' noise.")] = 0,
    guidance: Guidance = 1.0,
    threads: Threads = None,
    engine: Engine = "auto",
    memory: Memory = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Skip the cases whose result by the same model, settings and --engine (auto: any) stands in OUT.",
        ),
    ] = False,
    allow_code: Annotated[
        str | None,
        typer.Option(
            metavar="CONFIG",
            help="Import the class that CONFIG names by a dotted path, or load that archive: trust it.",
        ),
    ] = None,
) -> None:
    """Synthesise the T1ce of one patient or of a folder of them.

    Each case gets OUT/<case>/ with <case>_desc-synthT1ce_T1w.nii.gz (on T1's grid and intensity scale, zero outside
    the brain), preview.png and provenance.json; the shipped model also tells the error to be expected (desc-stdT1ce),
    others with --samples the standard deviation of these. Inputs must be skull-stripped and co-registered; T2 or FLAIR
    may be missing where the model was trained for it. A folder appears when it is complete. Exit code: 0 all done,
    1 some case failed, 2 a mistake in the command or the only case, or an output that cannot be written; 130 and 143
    stopped by Ctrl-C and SIGTERM.

    Examples:

        dsdiff synth BraTS2021_01657 -o out

        dsdiff synth cohort -o out --resume --memory 4

        dsdiff synth --t1 a.nii.gz --t2 b.nii.gz --flair c.nii.gz --case p7 -o out
    """
    todo = _cases(inputs or [], {"t1": t1, "t2": t2, "flair": flair}, case)
    _allow(allow_code)
    asked = {"steps": steps, "samples": samples, "seed": seed, "guidance": guidance}
    _synthesize(todo, out, model, asked, style, threads, engine, memory, device, resume)


def _allow(trusted: str | None) -> None:
    """Let the class that a config names be imported, or the archive in a folder be loaded."""
    if trusted is None:
        return
    from dsdiff.backbones import registry
    from dsdiff.config import run as configs
    from dsdiff.runtimes import network

    if Path(trusted).is_dir():
        network.allow(Path(trusted))
    else:
        registry.allow(configs.load(trusted).backbone.target)


def _cases(inputs: list[Path], files: dict[str, Path | None], name: str | None) -> "list[Case]":
    """The cases that the command line names. Raises `UserError` where it names none, or one twice."""
    from dsdiff.io import cases

    given = {contrast: path for contrast, path in files.items() if path is not None}
    if given and inputs:
        raise ConfigError("give either INPUT folders or --t1 --t2 --flair, not both")
    if given:
        first = next(iter(given.values()))
        named = cases.contrast_of(first)
        name = name if name is not None else (named[0] if named else cases.NIFTI.sub("", first.name))
        if not name or Path(name).name != name or name.startswith("."):
            raise ConfigError(f"--case '{name}' must be a plain name: it becomes a folder in OUT")
        return [cases.Case(name, given)]
    if name is not None:
        raise ConfigError("--case goes with --t1 --t2 --flair; the cases of a folder have their own names")
    if not inputs:
        raise ConfigError("nothing to do: give a case folder, a folder of cases, or --t1 --t2 --flair")
    found = [case for folder in inputs for case in cases.discover(folder)]
    names = [case.name for case in found]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ConfigError(f"case {twice[0]} is given more than once; results would overwrite each other")
    return found


def _synthesize(
    todo: "list[Case]",
    out: Path,
    model: str,
    asked: dict[str, Any],
    style: Path | None,
    threads: int | None,
    engine: str,
    memory: float | None,
    device: str,
    resume: bool,
) -> None:
    """Synthesise all cases and report; exits with 1 where some of several failed, raises the error of a lone one."""
    from rich.console import Console

    from dsdiff.inference import outputs as case_io
    from dsdiff.inference import parallel
    from dsdiff.inference import style_reference as references
    from dsdiff.inference.options import plan
    from dsdiff.system import device as devices
    from dsdiff.system.console import say

    devices.share_heap()
    console = Console(stderr=True)
    if not resume:
        _check_places(todo, out)
    devices.set_threads(threads, parallel.worthwhile)
    loaded = _loaded(model, engine, device, console)
    sampling = plan(loaded, **asked)
    side_by_side = loaded.engine.workers
    by = loaded.engine.says + (f", {side_by_side} threads side by side" if side_by_side > 1 else "")
    told = references.read(style, loaded) if style else None
    everything = len(todo)
    if everything > 1:
        say(console, f"{everything} cases -> {out}")
    if resume:
        todo = [c for c in todo if not case_io.is_finished(out, c, loaded, sampling, told)]
        console.print(f"{everything - len(todo)} of {everything} cases are finished already")
        _check_places(todo, out)
    tally = _Tally()
    try:
        _run(todo, out, loaded, sampling, told, memory, by, console, tally)
    finally:
        if everything > 1:
            tally.say(everything, console)
    if tally.failed and everything == 1:
        raise next(iter(tally.failed.values()))
    if tally.failed:
        raise typer.Exit(1)


def _check_places(todo: "list[Case]", out: Path) -> None:
    """Raise `OutputError` where a result would have to take the place of something else, before long work is done."""
    from dsdiff.inference import outputs as case_io

    for one in todo:
        case_io.check_place(out / one.name)


@dataclass(frozen=True)
class _Tally:
    """Cases that could not be synthesised, and why; cases with doubts about the input."""

    failed: dict[str, Exception] = field(default_factory=dict)
    doubted: list[str] = field(default_factory=list)

    def say(self, everything: int, console: "Console") -> None:
        """Name them, of so many."""
        from dsdiff.system.console import say

        if self.doubted:
            named = ", ".join(self.doubted)
            say(console, f"{len(self.doubted)} of {everything} cases come with doubts: {named}", "yellow")
        if self.failed:
            say(console, f"{len(self.failed)} of {everything} cases failed:", "bold red")
        for name, reason in self.failed.items():
            say(console, f"  {name}: {reason}")


def _loaded(model: str, engine: str, device: str, console: "Console") -> "Model":
    """The model, computed by an engine."""
    from dsdiff.inference import engine as engines
    from dsdiff.inference import model as models
    from dsdiff.system import device as devices

    if engine != engines.OPENVINO:
        return models.load(model, devices.pick(device), engine)
    from dsdiff.inference.export import converted

    with console.status("converting for OpenVINO, once"):
        return converted(models.load(model, devices.pick("cpu" if device == "auto" else device)))


def _run(
    todo: "list[Case]",
    out: Path,
    model: "Model",
    sampling: "Sampling",
    style: "Reference | None",
    memory: float | None,
    by: str,
    console: "Console",
    tally: _Tally,
) -> None:
    """Synthesise every case, noting which could not be and which come with doubts. Raises `OutputError`, which stops
    all.
    """
    from dsdiff.inference.batch import synthesize_cases
    from dsdiff.system.console import bars, say

    with bars(console) as progress:
        whole = progress.add_task("all cases", total=len(todo), visible=len(todo) > 1)
        tasks = {case.name: progress.add_task(case.name, total=1.0, visible=False) for case in todo}
        since = time.perf_counter()
        for case, outcome in synthesize_cases(
            todo, out, model, sampling, style=style, memory=memory,
            progress=lambda case, share: progress.update(tasks[case.name], completed=share, visible=True),
        ):  # fmt: skip
            if isinstance(outcome, OutputError | ConfigError):
                raise outcome
            if isinstance(outcome, Exception):
                traceback.clear_frames(outcome.__traceback__)  # they hold the volumes of the case
                tally.failed[case.name] = outcome
            else:
                took = "" if len(todo) > 1 else f": {time.perf_counter() - since:.1f} s by {by}"
                _say(progress, case.name, out, took, outcome)
                tally.doubted.extend([case.name] if outcome else [])
            progress.remove_task(tasks[case.name])
            progress.advance(whole)
    if len(todo) > 1:
        seconds = time.perf_counter() - since
        say(progress.console, f"{len(todo)} cases in {seconds:.1f} s, {seconds / len(todo):.1f} s each, by {by}")


def _say(progress: "Progress", name: str, out: Path, took: str, warnings: tuple[str, ...]) -> None:
    from dsdiff.system.console import say

    console = progress.console
    say(console, f"{name}{took} -> {out / name}")
    for warning in warnings:
        say(console, f"  warning: {warning}", "yellow")
