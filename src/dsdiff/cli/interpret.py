"""The commands `dsdiff explain` and `dsdiff probe`, which show what a model computed and why."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdiff.cli.options import Device, ModelName, Threads
from dsdiff.errors import ConfigError

if TYPE_CHECKING:
    from dsdiff.interpret.linear_probe import ProbeCodes
    from dsdiff.interpret.occlusion import Explanation
    from dsdiff.io.cases import Case

logger = logging.getLogger(__name__)


def explain_command(
    case: Annotated[
        Path, typer.Argument(metavar="CASE", help="Folder of one case, with files named as in BraTS or BIDS.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", readable=False, help="PNG file for the figure.")] = Path(
        "explain.png"
    ),
    model: ModelName = "default",
    samples: Annotated[
        int, typer.Option(min=1, help="Number of samples for the uncertainty, if the model does not predict its error.")
    ] = 4,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Show which input contrast caused each enhancement.

    The command synthesizes the T1ce of one case again without each contrast in turn. It withholds the contrast if the
    model was trained with missing contrasts. Otherwise it replaces the contrast by its left-right mirror image. The
    figure shows how much enhancement is lost, what the network saw, and the uncertainty. The command also prints the
    largest enhancements with the share of each contrast. The result describes the network, not the tissue.

    Example: dsdiff explain BraTS2021_01657 -o explain.png
    """
    from dsdiff.inference.model import load_model
    from dsdiff.interpret import occlusion, occlusion_figure
    from dsdiff.io.cases import discover_single_case, load_volumes
    from dsdiff.preprocessing import normalize
    from dsdiff.reporting import figures
    from dsdiff.system import atomic, output_checks
    from dsdiff.system.console import progress_bars
    from dsdiff.system.device import resolve_device, set_threads

    case_files = discover_single_case(case, "dsdiff explain")
    output_checks.check_png_path(out)
    set_threads(threads)

    loaded_model = load_model(model, resolve_device(device))
    volumes = load_volumes(case_files, loaded_model.contrasts_to_read(case_files.contrasts))
    loaded_case = normalize.preprocess(volumes, loaded_model.config.data.source_contrast)
    steps = loaded_model.sampler.steps or loaded_model.process.default_steps(samples)
    n_samples = samples if loaded_model.process.is_stochastic(steps) else 1

    with progress_bars() as report:
        explanation = occlusion.explain(
            loaded_case, loaded_model, n_samples, lambda fraction: report(case_files.name, fraction, 1.0)
        )

    _print_enhancements(explanation)
    title = f"{case_files.name}   model {loaded_model.name} {loaded_model.hash}"
    with atomic.atomic_file(out) as unfinished:
        figures.save_png(occlusion_figure.plot_explanation(explanation, loaded_model, title), unfinished)
    typer.echo(out)


def _print_enhancements(explanation: "Explanation") -> None:
    """Print one line per enhancement, and log the warnings of the synthesis."""
    from dsdiff.interpret import occlusion

    threshold = f"{occlusion.ENHANCEMENT_THRESHOLD} robust SD"
    for number, enhancement in enumerate(explanation.enhancements, 1):
        shares = ", ".join(f"{contrast} {share:+.0%}" for contrast, share in enhancement.contributions.items())
        voxel = explanation.geometry.file_voxel(enhancement.point)
        typer.echo(f"enhancement {number}: {enhancement.ml:.1f} ml above {threshold} at voxel {voxel}, due to {shares}")

    if not explanation.enhancements:
        typer.echo(f"no enhancement above {threshold} has {occlusion.MIN_ENHANCEMENT_ML} ml or more")
    for warning in explanation.result.warnings:
        logger.warning("warning: %s", warning)


def probe_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a model folder together with --cases.")],
    folder: Annotated[
        Path | None,
        typer.Option("--cases", help="Folder of cases to test on. Default: the cases of the held-out fold of RUN."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", readable=False, help="PNG file for the figure. Default: RUN/probe.png."),
    ] = None,
    max_patients: Annotated[int, typer.Option(min=2, help="Largest number of cases to test on.")] = 16,
    threads: Threads = None,
    device: Device = "auto",
) -> None:
    """Test whether a model's features are disentangled.

    The command needs a model with shared and specific features (conditioning.disentangle). A linear probe is trained
    on some patients and tested on the others. It must fail to name the contrast from the shared features, and must
    succeed from the specific features. A model with the swap decoder (conditioning.disentangle: target swap) is tested
    further: shared features of one contrast and specific features of another must give the look of the other and the
    edges of the first. Exit code: 0 if all checks ran and passed, else 1.

    Example: dsdiff probe runs/fold0
    """
    from dsdiff.inference.model import load_model
    from dsdiff.interpret import linear_probe, linear_probe_figure
    from dsdiff.reporting import figures
    from dsdiff.system import atomic, output_checks
    from dsdiff.system.console import progress_bars
    from dsdiff.system.device import resolve_device, set_threads

    figure_path = out or run / "probe.png"
    output_checks.check_png_path(figure_path)
    set_threads(threads)

    model = load_model(_model_folder(run), resolve_device(device))
    cases = _cases_to_probe(run, folder)[:max_patients]
    codes: list[ProbeCodes] = []
    with progress_bars(count=True) as report:
        for case in cases:
            report("encoding patients", len(codes), len(cases))
            codes.append(linear_probe.encode_case(case, model))
        report("encoding patients", len(codes), len(cases))

    result = linear_probe.evaluate_probe(codes)
    typer.echo(f"{result.patients} patients, model {model.hash}")
    outcomes = {True: "pass", False: "FAIL", None: "not tried"}
    for check, passed in result.checks.items():
        typer.echo(f"{outcomes[passed]:10}{check}")
    typer.echo(result.verdict)

    title = f"{codes[0].name}   model {model.hash}"
    with atomic.atomic_file(figure_path) as unfinished:
        figures.save_png(linear_probe_figure.plot_probe(codes[0], model, title), unfinished)
    typer.echo(figure_path)
    if not result.is_disentangled:
        raise typer.Exit(1)


def _model_folder(run: Path) -> Path:
    """Return the model folder of a run folder; a model folder is returned as it is."""
    return run / "model" if (run / "model").is_dir() else run


def _cases_to_probe(run: Path, folder: Path | None) -> "list[Case]":
    """Return the cases of a folder, or those of the held-out fold of a run.

    Raises:
        ConfigError: No folder is given, and the run does not say which cases it held out or where their files are.
    """
    from dsdiff.config.run import load_config
    from dsdiff.data import store
    from dsdiff.io import splits
    from dsdiff.io.cases import discover_cases, discover_named_cases
    from dsdiff.model import checkpoint

    if folder is not None:
        return discover_cases(folder)
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} has no config.yaml, so it is not a run or model folder; name cases by --cases DIR")

    data = load_config(run / "config.yaml").data
    if data.root is None or data.split is None or data.fold is None:
        raise ConfigError(f"{run} held no patients out; name cases by --cases DIR")
    checkpoint.read_metadata(_model_folder(run)).check_fold(data.split, data.fold, run)
    if store.is_store(data.root):
        raise ConfigError(f"{run} was trained from a store, which holds no image files; name cases by --cases DIR")
    return discover_named_cases(data.root, splits.read(data.split).held_out(data.fold))
