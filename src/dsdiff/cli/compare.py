"""dsdiff compare: which backbone, and is the gain worth the cost."""

import datetime
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dsdiff.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from dsdiff.comparison.results import Comparison
    from dsdiff.comparison.setup import Asked, Prepared

LIMIT = "20min"  # of training, where neither --budget nor --steps says anything
SEEDS = 3
RECIPE = "bridge-small"
REPORT = ("results.json", "table.md", "report.html", "front.svg", "front.png")


def command(
    configs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG]... [KEY=VALUE]...",
            help="Candidates, the reference first: YAMLs or names; changes for all of them.",
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The folder of cases; with --from, by default data.root.")] = None,
    split: Annotated[Path | None, typer.Option(help="A split file. Default: OUT/split.json, dealt once.")] = None,
    budget: Annotated[
        str | None, typer.Option(help=f"Time of one training, as 90s, 20min or 1h. Default: {LIMIT}.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of one training, instead of --budget.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help=f"Trainings of each, by fold. Default: {SEEDS}.")] = None,
    gmac_seeds: Annotated[int | None, typer.Option(min=1, help="Trainings at equal GMACs. Default: --seeds.")] = None,
    folds: Annotated[int | None, typer.Option(min=1, help="How many folds to train and score. Default: all.")] = None,
    arm: Annotated[
        Literal["both", "parameters", "gmacs"], typer.Option(help="Each at the budget, each at equal GMACs, or both.")
    ] = "both",
    recipe: Annotated[str, typer.Option(help="What a CONFIG of a backbone alone is put into.")] = RECIPE,
    existing: Annotated[
        Path | None, typer.Option("--from", metavar="RUNS", help="Compare finished runs; train nothing.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="With --from: the run to compare the others with.")] = None,
    protocol: Annotated[
        str, typer.Option(help="How to score: brain, brasyn or volume, as in dsdiff evaluate.")
    ] = "brain",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time, a CPU thread each.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Import classes that configs name by a dotted path.")
    ] = False,
    out: Annotated[Path, typer.Option("-o", "--out", readable=False, help="The folder of it all.")] = Path(
        "runs/compare"
    ),
) -> None:
    """Compare backbones that are trained alike, patient by patient, and say of each whether it is worth it.

    The same command goes on where it was stopped. Writes OUT/store (the prepared cohort), OUT/table.md (printed too),
    results.json, report.html and front.svg/png. Exit code: 0, or 1 where a candidate, run or patient is left out.

    Examples:

        dsdiff compare unet-small dit-small vit-small --data cohort --budget 20min --seeds 3 --folds 3

        dsdiff compare unet-small mine.yaml --data cohort --split split.json --steps 500 training.lr=3e-4

        dsdiff compare --from runs --data cohort
    """
    from rich.console import Console

    from dsdiff.comparison import results, setup
    from dsdiff.evaluation import protocols
    from dsdiff.system import atomic

    protocols.named(protocol)
    atomic.refuse_replacing(out, results.WHAT, REPORT)
    console = Console(stderr=True)
    trained = any((configs, split, budget, steps, seeds, gmac_seeds, folds, arm != "both", recipe != RECIPE))
    _refuse_idle(existing, reference, trained)
    if existing is None:
        arms = _arms(arm, seeds or SEEDS, gmac_seeds or seeds or SEEDS)
        asked = _asked(configs or [], data, split, folds, _limit(budget, steps), arms, recipe, jobs)
        prepared = setup.fresh(asked, out, device, allow_code, console)
    else:
        prepared = setup.finished(existing, reference, data, out, device, allow_code)
    if _compared(prepared, out, protocol, device, jobs, console):
        raise typer.Exit(1)


def _refuse_idle(existing: Path | None, reference: str | None, trained: bool) -> None:
    """Raise `ConfigError` for what would be asked for in vain."""
    if existing is None and reference:
        raise ConfigError("--reference goes with --from; of CONFIGs the first is the reference")
    if existing is not None and trained:
        raise ConfigError(
            "--from takes runs as they are: no CONFIG, recipe, arm, split, folds, budget or seeds with it"
        )


def _asked(
    configs: list[str],
    data: Path | None,
    split: Path | None,
    folds: int | None,
    limit: int | float,
    arms: dict[str, int],
    recipe: str,
    jobs: int,
) -> "Asked":
    """What is to be trained; arguments with a "=" are changes, the others configs."""
    from dsdiff.comparison import setup

    names = [item for item in configs if "=" not in item]
    if not names or data is None:
        raise ConfigError("needed are one CONFIG or more and --data, or --from RUNS")
    overrides = [item for item in configs if "=" in item]
    return setup.Asked(names, overrides, recipe, data, split, folds, limit, arms, jobs)


def _arms(which: str, seeds: int, gmac_seeds: int) -> dict[str, int]:
    """The seeds of each arm that is wanted, by its title."""
    from dsdiff.comparison import plan

    every = {"parameters": (plan.PARAMETERS, seeds), "gmacs": (plan.GMACS, gmac_seeds)}
    return dict(every.values() if which == "both" else [every[which]])


def _limit(budget: str | None, steps: int | None) -> int | float:
    """Steps (int) or seconds (float) of one training."""
    from dsdiff.comparison.throughput import parse

    if budget and steps:
        raise ConfigError(f"--budget {budget} and --steps {steps} both limit a training; give one of them")
    return steps or parse(budget or LIMIT)


def _compared(prepared: "Prepared", out: Path, protocol: str, device: str, jobs: int, console: "Console") -> bool:
    """Do the work and write the results; whether something failed."""
    from dsdiff.comparison import results, runner
    from dsdiff.data import splits
    from dsdiff.system import version as source
    from dsdiff.system.console import say

    arms = prepared.arms
    runs = runner.one_of_each_fold(next(iter(arms.values()))[0].runs)
    failed = runner.do(arms, out, protocol, device, jobs, console)
    costs, unmeasured = results.costs(arms, failed, device, out / "costs.json")
    left_out = prepared.left_out | {f"the costs of {name}": why for name, why in unmeasured.items()}
    baselines = runner.baselines_of(runs, protocol, out, failed)
    found, patients, unscored = results.gather(arms, costs, prepared.paces, failed, baselines, protocol)
    unscored |= runner.unscored_baselines(out)
    first = runs[0].config.data
    facts = {
        "what": results.WHAT,
        "command": shlex.join(["dsdiff", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "protocol": protocol,
        "split": splits.read(first.split).hash if first.split else "",
        "folds": len(runs),
        "seeds": sorted({len({run.config.seed for run in one.runs}) for methods in arms.values() for one in methods}),
        "left_out": left_out,
        "versions": {"dsdiff": source.label(), "torch": version("torch")},
    }
    comparison = results.Comparison(tuple(found), tuple(patients), unscored, facts)
    _write(comparison, out)
    say(console, f"open {out / 'report.html'}")
    return bool(failed or left_out or unscored)


def _write(found: "Comparison", out: Path) -> None:
    """The files of REPORT, all or none; the table is printed too."""
    from dsdiff.comparison import pareto, report, results, tables
    from dsdiff.system import atomic

    scores, text = results.judged(found.facts["protocol"]), tables.markdown(found)
    with atomic.filled(out, REPORT) as folder:
        drawing = pareto.save(pareto.draw(found.arms, scores), folder)
        (folder / "report.html").write_text(report.page(found, drawing, scores), encoding="utf-8")
        results.write_json(found, folder / REPORT[0])
        (folder / "table.md").write_text(text, encoding="utf-8")
    typer.echo(text)
