"""dsdiff compare: compare backbones that are trained alike."""

import datetime
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dsdiff.cli.options import AllowCode, Device
from dsdiff.errors import ConfigError

if TYPE_CHECKING:
    from dsdiff.comparison.options import ComparisonOptions
    from dsdiff.comparison.plan import MethodsByArm
    from dsdiff.comparison.setup import ComparisonSetup
    from dsdiff.comparison_report.results import Comparison

DEFAULT_BUDGET = "20min"  # of one training
DEFAULT_SEEDS = 3
DEFAULT_RECIPE = "bridge-small"
RESULTS_FILE = "results.json"
REPORT_FILES = (RESULTS_FILE, "table.md", "report.html", "front.svg", "front.png")


def command(
    configs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG|KEY=VALUE",
            help="Candidates, the reference first: YAML files or names from configs/. KEY=VALUE changes all of them.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of cases. Default with --from: data.root of each run.")
    ] = None,
    split: Annotated[Path | None, typer.Option(help="Split file. Default: OUT/split.json, written once.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help=f"Time limit of one training, such as 90s, 20min or 1h. Default: {DEFAULT_BUDGET}."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of one training. Replaces the time limit --budget.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help=f"Seeds of each candidate. Default: {DEFAULT_SEEDS}.")
    ] = None,
    gmac_seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of each candidate at equal GMACs. Default: --seeds.")
    ] = None,
    folds: Annotated[int | None, typer.Option(min=1, help="Number of folds to train and score. Default: all.")] = None,
    arm: Annotated[
        Literal["both", "parameters", "gmacs"],
        typer.Option(
            help="parameters: all train for the same steps or time. gmacs: all train with the same total of "
            "multiply-accumulates. both: one table for each."
        ),
    ] = "both",
    recipe: Annotated[str, typer.Option(help="Config that completes a CONFIG with only a backbone.")] = DEFAULT_RECIPE,
    existing: Annotated[
        Path | None, typer.Option("--from", metavar="RUNS", help="Folder of finished runs to compare without training.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="With --from: name of the run to compare with.")] = None,
    protocol: Annotated[
        str, typer.Option(help="Scoring protocol: brain, brasyn or volume, as in dsdiff evaluate.")
    ] = "brain",
    jobs: Annotated[int, typer.Option(min=1, help="Number of trainings at a time, with one CPU thread each.")] = 2,
    device: Device = "auto",
    allow_code: AllowCode = False,
    out: Annotated[Path, typer.Option("-o", "--out", readable=False, help="Output folder.")] = Path("runs/compare"),
) -> None:
    """Train several backbones with the same recipe and compare them patient by patient.

    Needs a folder of cases with T1ce and one or more CONFIGs. The first is the reference. Each candidate is trained for
    every seed and fold, and scored on its held-out patients. The report gives each difference to the reference with its
    confidence interval and costs, and a verdict: better, worse, not worth it, or cannot tell.

    The same command resumes an interrupted comparison. Writes to OUT: store/ (the prepared cohort), runs/, table.md
    (also printed), results.json, report.html, front.svg and front.png (quality against cost). Exit code 1 means that a
    candidate, run or patient is missing from the results.

    Examples:

        dsdiff compare unet-small dit-small vit-small --data cohort --budget 20min --seeds 3 --folds 3

        dsdiff compare unet-small mine.yaml --data cohort --split split.json --steps 500 training.lr=3e-4

        dsdiff compare --from runs --data cohort
    """
    from dsdiff.comparison import setup
    from dsdiff.comparison.options import ComparisonOptions, ComparisonRequest
    from dsdiff.comparison_report import results
    from dsdiff.evaluation import protocols
    from dsdiff.system import output_checks
    from dsdiff.system.console import progress_bars

    protocols.get_protocol(protocol)
    output_checks.check_overwrite(out, results.FILE_KIND, REPORT_FILES)
    options = ComparisonOptions(out, protocol, device, jobs, allow_code)

    if existing is not None:
        training = (configs, split, budget, steps, seeds, gmac_seeds, folds, arm != "both", recipe != DEFAULT_RECIPE)
        _check_no_training_options(any(training))
        comparison_setup = setup.from_runs(existing, reference, data, options)
    else:
        names, overrides = _parse_configs(configs or [])
        if not names or data is None:
            raise ConfigError("give one or more CONFIGs and --data, or --from RUNS")
        if reference:
            raise ConfigError("--reference needs --from; without it the first CONFIG is the reference")
        seeds_by_arm = _seeds_by_arm(arm, seeds or DEFAULT_SEEDS, gmac_seeds or seeds or DEFAULT_SEEDS)
        limit = _training_limit(budget, steps)
        request = ComparisonRequest(names, overrides, recipe, data, split, folds, limit, seeds_by_arm)
        with progress_bars(count=True) as progress:
            comparison_setup = setup.from_configs(request, options, progress)

    if not _run_comparison(comparison_setup, options):
        raise typer.Exit(1)


def _check_no_training_options(has_training_options: bool) -> None:
    if has_training_options:
        raise ConfigError(
            "--from compares finished runs without training; remove CONFIG, recipe, arm, split, folds, budget, steps "
            "and seeds"
        )


def _parse_configs(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Configs, and KEY=VALUE changes."""
    names = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    return names, overrides


def _seeds_by_arm(arm: str, seeds: int, gmac_seeds: int) -> dict[str, int]:
    """Title of each arm to train -> number of seeds."""
    from dsdiff.comparison import plan

    seeds_by_arm = {}
    if arm in ("both", "parameters"):
        seeds_by_arm[plan.EQUAL_PARAMETERS] = seeds
    if arm in ("both", "gmacs"):
        seeds_by_arm[plan.EQUAL_GMACS] = gmac_seeds
    return seeds_by_arm


def _training_limit(budget: str | None, steps: int | None) -> int | float:
    """Limit of one training: an int is a number of steps, a float is a time in seconds."""
    from dsdiff.comparison.throughput import parse_budget

    if budget and steps:
        raise ConfigError(f"--budget {budget} and --steps {steps} both limit a training; give one of them")
    return steps or parse_budget(budget or DEFAULT_BUDGET)


def _run_comparison(comparison_setup: "ComparisonSetup", options: "ComparisonOptions") -> bool:
    """Train, score and write the report; returns whether everything succeeded."""
    from dsdiff.comparison import costs, plan, runner
    from dsdiff.comparison.collect import Measurements, collect_results, scored_patients
    from dsdiff.comparison_report.results import Comparison
    from dsdiff.system.console import print_line, progress_bars

    arms = comparison_setup.arms
    with progress_bars(count=True) as progress:
        failed = runner.run_all(arms, options, progress)

    model_costs, unmeasured = costs.measure_costs(arms, failed, options)
    excluded = comparison_setup.excluded | {f"costs of {name}": reason for name, reason in unmeasured.items()}
    baselines = runner.load_baseline_scores(plan.reference_fold_runs(arms), options, failed)

    measurements = Measurements(model_costs, comparison_setup.seconds_per_step, baselines)
    arm_results, unscored = collect_results(arms, failed, measurements, options.protocol)
    unscored |= runner.baseline_failures(options.out)
    metadata = _metadata(arms, options.protocol, excluded)
    comparison = Comparison(tuple(arm_results), tuple(scored_patients(arms)), unscored, metadata)

    _write_report(comparison, options.out)
    print_line(f"report: {options.out / 'report.html'}")
    return not (failed or excluded or unscored)


def _metadata(arms: "MethodsByArm", protocol: str, excluded: Mapping[str, str]) -> dict[str, Any]:
    from dsdiff.comparison import plan
    from dsdiff.comparison_report import results
    from dsdiff.io import splits
    from dsdiff.system.version import describe_version

    reference_runs = plan.reference_fold_runs(arms)
    split = reference_runs[0].config.data.split
    n_seeds = {method.n_seeds for method in plan.list_methods(arms)}
    return {
        "what": results.FILE_KIND,
        "command": shlex.join(["dsdiff", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "protocol": protocol,
        "split": splits.read(split).hash if split else "",
        "folds": len(reference_runs),
        "seeds": sorted(n_seeds),
        "excluded": dict(excluded),
        "versions": {"dsdiff": describe_version(), "torch": version("torch")},
    }


def _write_report(comparison: "Comparison", out: Path) -> None:
    """Write all of `REPORT_FILES` or none, and print the table."""
    from dsdiff.comparison_report import pareto, report, results, tables
    from dsdiff.system import atomic
    from dsdiff.system.unicode_names import to_unicode

    metrics = results.primary_metrics(comparison.metadata["protocol"])
    table = tables.render_markdown(comparison)
    with atomic.atomic_update(out, REPORT_FILES) as folder:
        front_svg = pareto.save_figure(pareto.plot_quality_against_cost(comparison.arms, metrics), folder)
        (folder / "report.html").write_text(
            to_unicode(report.render_html(comparison, front_svg, metrics)), encoding="utf-8"
        )
        (folder / "table.md").write_text(to_unicode(table), encoding="utf-8")
        results.write_comparison(comparison, folder / RESULTS_FILE)
    typer.echo(table)
