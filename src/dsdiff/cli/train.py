"""dsdiff train: train one model from one config. dsdiff runs: summarize the runs in a folder."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdiff.cli.options import AllowCode, Device, Threads
from dsdiff.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from dsdiff.config.run import RunConfig


def train_command(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of one in configs/.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to the config, such as training.steps=100."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("-o", "--run", readable=False, help="Run folder to write. Default: runs/<name of CONFIG>."),
    ] = None,
    threads: Threads = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Number of processes that read batches ahead. It does not change the result.")
    ] = 0,
    device: Device = "auto",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the complete config, the model size and the memory that training needs, and check that the "
            "folders and files that the config names exist. Train nothing.",
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(help="With --dry-run: also print the batch size and learning rate for this memory, such as 12GB."),
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Train a model from a config, or resume its training.

    Needs a config and a folder of cases with T1ce, or a prepared store (dsdiff prepare). A split file (dsdiff split)
    and a fold hold out patients for validation. The same command resumes an interrupted run; SIGTERM and Ctrl-C save
    the state first.

    Writes to the run folder: config.yaml (the complete config), log.jsonl (the losses), samples/ (images of T1, T2,
    FLAIR, prediction and truth), the training state, best/ (the model with the best validation) and model/ (the final
    model). Next step: dsdiff synth CASE --model RUN/model

    To change the backbone: backbone=dit-small, a name from configs/backbones (see dsdiff backbones), or a YAML file.

    To train on several GPUs or machines: torchrun --nproc-per-node 4 -m dsdiff train ... (see docs/training.md).

    Example: dsdiff train bridge-small data.root=cohort data.split=split.json data.fold=0 -o runs/fold0
    """
    from dsdiff.backbones import registry
    from dsdiff.config.overrides import list_config_folders
    from dsdiff.config.run import dump_config, load_config
    from dsdiff.system.console import print_line, progress_bars

    if memory is not None and not dry_run:
        raise ConfigError("--memory needs --dry-run")
    run_config = load_config(config, tuple(overrides or ()))
    if allow_code:
        registry.trust_class(run_config.backbone.target, list_config_folders([config], overrides or ()))
    for warning in registry.params_warnings(run_config.backbone):
        print_line(f"warning: {warning}", "yellow")
    if dry_run:
        typer.echo(dump_config(run_config) + _describe_size(run_config, device, memory))
        _check_paths(run_config)
        return

    from dsdiff.system.device import resolve_device, set_threads
    from dsdiff.training import loop

    set_threads(threads)
    run_folder = run or Path("runs") / Path(config).stem
    with progress_bars() as progress:
        model = loop.train(run_config, run_folder, resolve_device(device), workers=workers, progress=progress)
    trust = f" --allow-code {config}" if allow_code else ""
    print_line(f"finished; next: dsdiff synth CASE --model {model}{trust}")


def runs_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", readable=False, help="A folder of runs, or one run.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="PNG file for the loss curves. Default: DIR/runs.png.")
    ] = None,
) -> None:
    """List training runs by their validation loss, best first, and plot their loss curves.

    Needs a folder that holds runs of dsdiff train or dsdiff compare at any depth. Validation losses are comparable only
    between runs with the same split, fold and loss.

    Example: dsdiff runs runs -o runs.png
    """
    from dsdiff.training import run_summary

    summaries = run_summary.find_runs(folder)
    plot_file = out if out is not None else folder / "runs.png"
    typer.echo(run_summary.format_table(summaries))
    try:
        run_summary.plot_runs(summaries, plot_file)
    except (OSError, ValueError) as error:
        raise OutputError(f"{plot_file} cannot be written: {error}") from error
    typer.echo(f"curves: {plot_file}", err=True)


def _check_paths(config: "RunConfig") -> None:
    """Raise `ConfigError` for paths of the config that do not exist or do not hold what they should."""
    from dsdiff.system.console import print_line
    from dsdiff.training.path_check import find_path_problems

    if problems := find_path_problems(config):
        raise ConfigError("; ".join(problems))
    if config.data.root is None and config.data.phantoms is None:
        print_line("data.root and data.phantoms are not set; training needs one of them", "yellow")


def _describe_size(config: "RunConfig", device_name: str, memory: str | None) -> str:
    """YAML comments with model size, memory of training, and the settings that fit into `memory`."""
    from dsdiff.profiling import cost
    from dsdiff.profiling.memory import estimate_memory, fit_batch, parse_memory
    from dsdiff.system.device import resolve_device, resolve_precision

    height, width = config.data.crop
    batch_size = config.training.batch_size
    counts = cost.count_cost(config, height, width)
    precision = resolve_precision(resolve_device(device_name), config.training.precision)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    estimate = estimate_memory(config, counts, precision != "fp32", processes)
    lines = [
        f"{counts.parameters / 1e6:.2f} M parameters, {counts.macs / 1e9:.2f} GMAC per slice of {height} x {width}",
        f"about {estimate.total_bytes(batch_size) / 1e9:.2f} GB at batch_size {batch_size} in {precision}: "
        f"{estimate.fixed_bytes / 1e9:.2f} for weights, gradients, moments and averages, "
        f"{estimate.bytes_per_slice / 1e9:.3f} per slice",
    ]
    if memory is not None:
        fit = fit_batch(config, estimate, parse_memory(memory))
        lines += [
            f"{memory} fits training.batch_size={fit.batch_size} training.accumulate={fit.accumulate} "
            f"training.lr={fit.lr:.3g}",
            f"at most {fit.max_slices} slices at once, with training.lr={fit.max_slices_lr:.3g} (scaled by the square "
            "root of the batch)",
        ]
    return "\n".join(f"# {line}" for line in lines)
