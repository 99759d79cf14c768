"""dsdiff synth: synthesize the T1ce of patients."""

import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dsdiff.cli.options import (
    T1,
    T2,
    CaseName,
    Device,
    EngineName,
    FastestThreads,
    Flair,
    Guidance,
    Inputs,
    MemoryLimit,
    ModelName,
    Out,
    Resume,
    Samples,
    Seed,
    Steps,
    Style,
    TrustedCode,
)
from dsdiff.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsdiff.inference.model import Model
    from dsdiff.inference.pipeline import Pipeline
    from dsdiff.io.cases import Case

ALL_CASES = "all cases"  # label of the progress bar of the whole command


def command(
    inputs: Inputs = None,
    out: Out = Path("out"),
    t1: T1 = None,
    t2: T2 = None,
    flair: Flair = None,
    case: CaseName = None,
    model: ModelName = "default",
    steps: Steps = None,
    samples: Samples = 1,
    style: Style = None,
    seed: Seed = 0,
    guidance: Guidance = 1.0,
    threads: FastestThreads = None,
    engine: EngineName = "auto",
    memory: MemoryLimit = None,
    device: Device = "auto",
    resume: Resume = False,
    allow_code: TrustedCode = None,
) -> None:
    """Synthesize the T1ce of one patient, or of each patient in a folder.

    Needs T1, T2 and FLAIR as NIfTI files, skull-stripped and co-registered. T2 or FLAIR may be missing if the model was
    trained with missing contrasts.

    Writes to OUT/<case>/: the T1ce on the grid and intensity scale of T1, zero outside the brain
    (<case>_desc-synthT1ce_T1w.nii.gz), preview.png, and provenance.json. The shipped model also writes an uncertainty
    map: the expected standard deviation of the error (<case>_desc-stdT1ce_T1w.nii.gz). Other models write the standard
    deviation over --samples. The folder of a case appears when it is complete.

    Exit code: 0 if all cases are done. 1 if some of many cases failed. 2 if the command or the only case has a mistake,
    or the output cannot be written. 130 or 143 after Ctrl-C or SIGTERM.

    Examples:

        dsdiff synth BraTS2021_01657 -o out

        dsdiff synth cohort -o out --resume --memory 4

        dsdiff synth --t1 a.nii.gz --t2 b.nii.gz --flair c.nii.gz --case p7 -o out
    """
    cases = _select_cases(inputs or [], {"t1": t1, "t2": t2, "flair": flair}, case)

    from dsdiff.inference.options import SynthesisOptions  # these import torch: after the quick checks
    from dsdiff.inference.pipeline import Pipeline
    from dsdiff.inference.style_reference import read_style

    if not resume:
        _check_outputs(cases, out)  # before the model is loaded
    if allow_code is not None:
        _trust(allow_code)

    _set_resources(threads)
    loaded_model = _load_model(model, engine, device)
    style_reference = read_style(style, loaded_model) if style else None
    options = SynthesisOptions(steps, samples, seed, guidance, style_reference, memory)
    pipeline = Pipeline(loaded_model, options)

    if resume:
        unfinished_cases = _skip_finished(cases, out, pipeline)
        _check_outputs(unfinished_cases, out)
    else:
        unfinished_cases = cases
    _synthesize(unfinished_cases, out, pipeline, Summary(len(cases)))


def _select_cases(folders: list[Path], files: dict[str, Path | None], name: str | None) -> "list[Case]":
    """Return the cases of the command line: those in folders, or the one of --t1 --t2 --flair.

    Raises:
        ConfigError: The command line names no case, or two cases of one name.
        InputError: A folder has no case.
    """
    from dsdiff.io.cases import discover_cases

    case_files = {contrast: path for contrast, path in files.items() if path is not None}
    if case_files and folders:
        raise ConfigError("give either INPUT folders or --t1 --t2 --flair, not both")
    if case_files:
        return [_build_case(case_files, name)]
    if name is not None:
        raise ConfigError("--case goes with --t1 --t2 --flair; cases in a folder have their own names")
    if not folders:
        raise ConfigError("nothing to do: give a case folder, a folder of cases, or --t1 --t2 --flair")

    cases: dict[str, Case] = {}
    for folder in folders:
        for case in discover_cases(folder):
            if case.name in cases:
                raise ConfigError(f"case {case.name} is given more than once; name each case once")
            cases[case.name] = case
    return list(cases.values())


def _build_case(files: dict[str, Path], name: str | None) -> "Case":
    """Build the case of --t1 --t2 --flair. Raises `ConfigError` for a name that cannot name a folder."""
    from dsdiff.io.cases import Case
    from dsdiff.io.file_names import NIFTI_SUFFIX, parse_file_name
    from dsdiff.system.unicode_names import to_case_name

    if name is None:
        first_file = next(iter(files.values()))
        case_and_contrast = parse_file_name(first_file)
        name = case_and_contrast[0] if case_and_contrast else NIFTI_SUFFIX.sub("", to_case_name(first_file.name))
    if not name or Path(name).name != name or name.startswith("."):
        raise ConfigError(f"--case '{name}' cannot name a result folder; give a name that has no / and no dot in front")
    return Case(to_case_name(name), files)


def _check_outputs(cases: "Sequence[Case]", out: Path) -> None:
    """Raise `OutputError` before long work if a result would replace a file that dsdiff did not write."""
    from dsdiff.inference.outputs import check_output_dir, result_dir

    for case in cases:
        check_output_dir(result_dir(case, out))


def _trust(path: Path) -> None:
    """Allow the class that a config names by a dotted path, or the archives of an exported model."""
    from dsdiff.backbones import registry
    from dsdiff.config.overrides import list_config_folders
    from dsdiff.config.run import load_config
    from dsdiff.runtimes.network import is_exported, trust_folder

    if is_exported(path):
        trust_folder(path)
    elif path.is_dir():
        raise ConfigError(f"--allow-code {path} is not an exported model; give a config or a folder of dsdiff export")
    else:
        registry.trust_class(load_config(str(path)).backbone.target, list_config_folders([path]))


def _set_resources(threads: int | None) -> None:
    """Set the number of CPU threads, and limit the memory that freed volumes occupy."""
    from dsdiff.inference.parallel import benchmark_thread_count
    from dsdiff.system.device import limit_malloc_arenas, set_threads

    limit_malloc_arenas()
    set_threads(threads, benchmark_thread_count)


def _load_model(name: str, engine: str, device: str) -> "Model":
    from dsdiff.inference.engine import OPENVINO
    from dsdiff.inference.model import load_model
    from dsdiff.system.console import terminal
    from dsdiff.system.device import resolve_device

    if engine != OPENVINO:
        return load_model(name, resolve_device(device), engine)

    from dsdiff.export.export_model import openvino_cached

    model = load_model(name, resolve_device("cpu" if device == "auto" else device))
    with terminal().status("converting the model to OpenVINO, once"):
        return openvino_cached(model)


def _skip_finished(cases: "list[Case]", out: Path, pipeline: "Pipeline") -> "list[Case]":
    """Return the cases without a finished result, and print how many have one."""
    from dsdiff.inference.outputs import is_finished
    from dsdiff.system.console import print_line

    unfinished_cases = [case for case in cases if not is_finished(case, out, pipeline)]
    n_finished = len(cases) - len(unfinished_cases)
    print_line(f"{n_finished} of {len(cases)} cases are finished already")
    return unfinished_cases


@dataclass(frozen=True)
class Summary:
    """Cases that failed, and cases with warnings.

    Attributes:
        n_cases: Number of cases of the command.
        errors: Case name -> why it could not be synthesized.
        cases_with_warnings: Names of synthesized cases whose input or settings are unusual.
    """

    n_cases: int
    errors: dict[str, Exception] = field(default_factory=dict)
    cases_with_warnings: list[str] = field(default_factory=list)


def _synthesize(cases: "list[Case]", out: Path, pipeline: "Pipeline", summary: Summary) -> None:
    """Synthesize cases and print what was done.

    Raises:
        UserError: The only case failed, the output cannot be written, or the memory limit does not suffice.
        typer.Exit: Some of many cases failed.
    """
    from dsdiff.system.console import print_line

    is_batch = summary.n_cases > 1
    if is_batch:
        print_line(f"{summary.n_cases} cases -> {out}")
    try:
        _run_pipeline(cases, out, pipeline, summary)
    finally:
        if is_batch:
            _print_summary(summary)

    if summary.errors and not is_batch:
        raise next(iter(summary.errors.values()))
    if summary.errors:
        raise typer.Exit(1)


def _run_pipeline(cases: "list[Case]", out: Path, pipeline: "Pipeline", summary: Summary) -> None:
    """Synthesize cases under progress bars, and note errors and warnings in the summary."""
    from dsdiff.inference.batch import synthesize_cases
    from dsdiff.system.console import print_line, progress_bars

    engine = _describe_engine(pipeline.model)
    start = time.perf_counter()

    with progress_bars() as report:

        def report_case(case: "Case", fraction: float) -> None:
            report(case.name, fraction, 1.0)

        outcomes = synthesize_cases(cases, out, pipeline, report_case)
        for n_finished, (case, outcome) in enumerate(outcomes, 1):
            report_case(case, 1.0)
            if len(cases) > 1:
                report(ALL_CASES, n_finished, len(cases))

            if isinstance(outcome, OutputError | ConfigError):  # would stop every case
                raise outcome
            if isinstance(outcome, Exception):
                traceback.clear_frames(outcome.__traceback__)  # they hold the volumes of the case
                summary.errors[case.name] = outcome
                continue

            duration = f": {time.perf_counter() - start:.1f} s by {engine}" if len(cases) == 1 else ""
            print_line(f"{case.name}{duration} -> {out / case.name}")
            for warning in outcome:
                print_line(f"  warning: {warning}", "yellow")
            if outcome:
                summary.cases_with_warnings.append(case.name)

    if len(cases) > 1:
        seconds = time.perf_counter() - start
        print_line(f"{len(cases)} cases in {seconds:.1f} s, {seconds / len(cases):.1f} s each, by {engine}")


def _print_summary(summary: Summary) -> None:
    """Print which cases have warnings, and which failed and why."""
    from dsdiff.system.console import print_line

    if summary.cases_with_warnings:
        names = ", ".join(summary.cases_with_warnings)
        print_line(f"{len(summary.cases_with_warnings)} of {summary.n_cases} cases have warnings: {names}", "yellow")
    if summary.errors:
        print_line(f"{len(summary.errors)} of {summary.n_cases} cases failed:", "bold red")
    for name, error in summary.errors.items():
        print_line(f"  {name}: {error}")


def _describe_engine(model: "Model") -> str:
    n_workers = model.engine.workers
    return f"{model.engine.label}, {n_workers} threads in parallel" if n_workers > 1 else model.engine.label
