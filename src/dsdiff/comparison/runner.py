"""Train and score the runs of a comparison, several at a time, each in its own process.

Finished runs are not repeated, so the same command resumes a comparison. A failed run does not stop the others.
"""

import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from dsdiff.comparison import baselines, scoring
from dsdiff.comparison.options import ComparisonOptions
from dsdiff.comparison.plan import MethodsByArm, Run, list_methods, reference_fold_runs
from dsdiff.comparison.scoring import Scores
from dsdiff.errors import DsdiffError
from dsdiff.profiling.subprocess import run_in_subprocess
from dsdiff.system.console import ProgressCallback, ignore_progress
from dsdiff.training import loop

logger = logging.getLogger(__name__)

BASELINES_FILE = "baselines.json"
FailedRuns = dict[Path, str]  # run folder -> reason


def run_all(arms: MethodsByArm, options: ComparisonOptions, progress: ProgressCallback = ignore_progress) -> FailedRuns:
    """Train and score all runs of all arms, and score the baselines.

    Args:
        arms: The methods of each arm.
        options: Output folder, protocol, device and number of jobs.
        progress: Called with the number of finished jobs.

    Returns:
        The runs that failed, with the reason.
    """
    runs = {run.folder: run for method in list_methods(arms) for run in method.runs}  # arms may share runs
    ordered_runs = sorted(runs.values(), key=lambda run: (run.config.seed, run.fold))  # stable: candidates alternate
    jobs = {run.folder: _run_job(run, options) for run in ordered_runs}

    reference_runs = reference_fold_runs(arms)
    file, protocol = options.out / BASELINES_FILE, options.protocol
    if baselines.read_baselines(reference_runs, protocol, file) is None or baseline_failures(options.out):
        jobs[file] = lambda: run_in_subprocess(baselines.score_baselines, reference_runs, protocol, file)
    return _run_parallel(jobs, options, progress)


def load_baseline_scores(runs: Sequence[Run], options: ComparisonOptions, failed: FailedRuns) -> dict[str, Scores]:
    """Read the scores of the baselines.

    Args:
        runs: Runs of the reference, one for each fold.
        options: Output folder and protocol.
        failed: The runs that failed.

    Returns:
        Baseline -> scores.

    Raises:
        DsdiffError: The baselines were not scored.
    """
    file = options.out / BASELINES_FILE
    scores = baselines.read_baselines(runs, options.protocol, file)
    if scores is None:
        raise DsdiffError(f"the baselines could not be scored: {failed.get(file, f'{file} does not exist')}")
    return scores


def baseline_failures(out: Path) -> dict[str, str]:
    """List the patients on which the baselines could not be scored.

    Args:
        out: Output folder of the comparison.

    Returns:
        "baselines: PATIENT" -> reason.
    """
    failed = json.loads((out / BASELINES_FILE).read_text(encoding="utf-8")).get("failed", {})
    return {f"baselines: {patient}": reason for patient, reason in failed.items()}


def _run_job(run: Run, options: ComparisonOptions) -> Callable[[], None]:
    def train_and_score() -> None:
        loop.init_run_dir(run.folder, run.config)
        scores = scoring.read_scores(run, options.protocol)
        if scores is None or scores.failed:
            run_in_subprocess(scoring.train_and_score, run, options.protocol, options.device)

    return train_and_score


def _run_parallel(
    jobs: dict[Path, Callable[[], None]], options: ComparisonOptions, progress: ProgressCallback
) -> FailedRuns:
    failed: FailedRuns = {}
    with ThreadPoolExecutor(options.jobs) as executor:
        futures: dict[Future[None], Path] = {executor.submit(job): path for path, job in jobs.items()}
        progress("training and scoring", 0, len(jobs))
        try:
            for n_finished, future in enumerate(as_completed(futures), 1):
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                if error is not None:
                    _record_failure(futures[future], error, options.out, failed)
                progress("training and scoring", n_finished, len(jobs))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    return failed


def _record_failure(path: Path, error: Exception, out: Path, failed: FailedRuns) -> None:
    failed[path] = str(error)
    name = path.relative_to(out) if path.is_relative_to(out) else path
    logger.error("%s: %s", name, error)
