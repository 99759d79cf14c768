"""The work of a comparison: runs trained and scored some at a time, each in a process of its own.

What is finished is never done again, so the same command goes on where it was stopped; what fails is told and the
others go on.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console

from dsdiff.comparison import scoring
from dsdiff.comparison.plan import Arms, Run
from dsdiff.comparison.scoring import Scores
from dsdiff.errors import DsdiffError
from dsdiff.profiling.subprocess import apart
from dsdiff.system.console import bars, say
from dsdiff.training import loop

BASELINES = "baselines.json"
Failed = dict[Path, str]  # run folder -> why


def do(arms: Arms, out: Path, protocol: str, device: str, jobs: int, console: Console) -> Failed:
    """Finish every run of every arm that can be finished, and the baselines; returns the runs that failed, and why."""
    runs = {run.folder: run for methods in arms.values() for method in methods for run in method.runs}
    ordered = sorted(runs.values(), key=lambda run: (run.config.seed, run.fold))  # stable: candidates take turns
    reference = one_of_each_fold(next(iter(arms.values()))[0].runs)
    baselines = out / BASELINES
    work: dict[Path, Callable[[], None]] = {run.folder: _finishing(run, protocol, device) for run in ordered}
    if scoring.read_baselines(reference, protocol, baselines) is None or unscored_baselines(out):
        work[baselines] = lambda: apart(scoring.baselines, reference, protocol, baselines)
    return _some_at_a_time(work, jobs, out, console)


def one_of_each_fold(runs: Sequence[Run]) -> list[Run]:
    """The runs of the first seed."""
    return [run for run in runs if run.config.seed == runs[0].config.seed]


def baselines_of(runs: Sequence[Run], protocol: str, out: Path, failed: Failed) -> dict[str, Scores]:
    """The baselines' scores. Raises `DsdiffError` where they failed."""
    place = out / BASELINES
    found = scoring.read_baselines(runs, protocol, place)
    if found is None:
        raise DsdiffError(f"the baselines could not be scored: {failed.get(place, 'they are not there')}")
    return found


def unscored_baselines(out: Path) -> dict[str, str]:
    """The patients on whom the baselines could not be scored, and why."""
    failed = json.loads((out / BASELINES).read_text(encoding="utf-8")).get("failed", {})
    return {f"baselines: {patient}": why for patient, why in failed.items()}


def _finishing(run: Run, protocol: str, device: str) -> Callable[[], None]:
    def finish() -> None:
        loop.claim(run.folder, run.config)
        found = scoring.read(run, protocol)
        if found is None or found.failed:
            apart(scoring.finish, run, protocol, device)

    return finish


def _some_at_a_time(work: dict[Path, Callable[[], None]], jobs: int, out: Path, console: Console) -> Failed:
    failed: Failed = {}
    with ThreadPoolExecutor(jobs) as pool, bars(console, count=True) as progress:
        task = progress.add_task("training and scoring", total=len(work))
        futures: dict[Future[None], Path] = {pool.submit(job): place for place, job in work.items()}
        try:
            for future in as_completed(futures):
                place = futures[future]
                if error := future.exception():
                    if not isinstance(error, Exception):
                        raise error
                    failed[place] = str(error)
                    name = place.relative_to(out) if place.is_relative_to(out) else place
                    say(progress.console, f"{name}: {error}", "red")
                progress.advance(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return failed
