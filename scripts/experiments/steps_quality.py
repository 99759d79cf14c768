"""Measure quality against sampling steps for several diffusion formulations.

python scripts/experiments/steps_quality.py DATA MODELS LOG.jsonl [--steps 1 2 4 8 20 100] [--picture FILE.png]

MODELS holds model folders, one for each formulation, all trained without the same fold of the split. DATA holds the
patients; those of the held-out fold are scored. LOG gets one line for each model, number of steps and patient, and the
same command resumes the work. Prints a Markdown table with 95 % bootstrap intervals over patients, and plots it with
--picture. A formulation skips step counts that it does not support (regression has one step). Seconds are CPU seconds
of one thread, so that patients can be scored in parallel.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from eval_real import read_regions
from matplotlib.figure import Figure

from dsdiff.errors import ConfigError
from dsdiff.evaluation import brain_scores, statistics, texture, voxelwise
from dsdiff.inference.model import Model, load_model
from dsdiff.inference.options import SynthesisOptions, plan_sampling
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io import splits
from dsdiff.io.cases import Case, discover_cases, load_volumes
from dsdiff.model import checkpoint
from dsdiff.orientation import to_canonical
from dsdiff.reporting import figures
from dsdiff.system.console import progress_bars

CPU = torch.device("cpu")
COLUMNS = {
    "psnr_fit": "PSNR in the brain after the best linear map, dB",
    "auc_tumour": "AUC of enhancement within the tumour",
    "sharpness": "sharpness relative to the acquired image",
    "seconds": "CPU seconds per patient",
}
LogLine = dict[str, Any]
Interval = tuple[float, float, float]  # mean, low, high
Means = dict[str, dict[int, dict[str, Interval]]]  # model -> steps -> column


class Job(NamedTuple):
    """One synthesis to score."""

    model_folder: Path
    case: Case
    steps: int


def score_steps(job: Job) -> LogLine:
    """Synthesize and score a patient with one thread.

    Args:
        job: Model, case and steps.

    Returns:
        One line of the log; None stands for NaN.
    """
    torch.set_num_threads(1)
    model = load_model(job.model_folder, CPU)
    volumes = load_volumes(job.case, (*model.contrasts, "t1ce"))
    start = time.process_time()
    pipeline = Pipeline(model, SynthesisOptions(steps=job.steps))
    result = pipeline.synthesize_volumes({name: volumes[name] for name in model.contrasts})
    seconds = time.process_time() - start

    truth, t1 = (to_canonical(volumes[name]).array for name in ("t1ce", "t1"))
    brain, image = (result.geometry.uncrop(array) for array in (result.case.brain, result.z))
    scores = brain_scores.score_brain(image, truth, t1, read_regions(job.case, brain))
    image_z, truth_z = (voxelwise.robust_zscore(array, brain) for array in (image, truth))
    scores |= {"sharpness": texture.sharpness(image_z, truth_z, brain), "seconds": seconds}

    line: LogLine = {"model": job.model_folder.name, "hash": model.hash, "steps": job.steps, "case": job.case.name}
    for name, value in scores.items():
        line[name] = round(value, 5) if np.isfinite(value) else None
    return line


def list_jobs(
    models: Path, data: Path, split: splits.Split, step_counts: list[int], selected: list[str] | None
) -> list[Job]:
    """List all syntheses: every model, patient of the held-out fold, and supported number of steps.

    Args:
        models: Folder of model folders.
        data: Folder of cases.
        split: The split.
        step_counts: Numbers of steps.
        selected: Names of cases; None takes all.

    Returns:
        The jobs.
    """
    cases = {case.name: case for case in discover_cases(data)}
    jobs: list[Job] = []
    folds: set[int] = set()
    for folder in sorted(path for path in models.iterdir() if (path / checkpoint.WEIGHTS_FILE).is_file()):
        split_hash, fold = checkpoint.read_metadata(folder).held_out_fold
        if split_hash != split.hash:
            split_name = split_hash or "none"
            sys.exit(f"{folder} was not trained without a fold of split {split.hash}; its split is {split_name}")
        folds.add(fold)
        if len(folds) > 1:
            sys.exit(f"the models in {models} held out different folds, {sorted(folds)}; give models of one fold")

        names = [name for name in split.held_out(fold) if selected is None or name in selected]
        if missing := sorted(set(names) - set(cases)):
            sys.exit(f"{data} lacks patients of the split: {', '.join(missing[:3])}")
        model = load_model(folder, CPU)
        for steps in step_counts:
            if supports_steps(model, steps):
                jobs += [Job(folder, cases[name], steps) for name in names]
    return jobs


def supports_steps(model: Model, steps: int) -> bool:
    """Check whether a model's formulation supports a number of steps.

    Args:
        model: The model.
        steps: Sampling steps.

    Returns:
        True if it does.
    """
    try:
        plan_sampling(model, SynthesisOptions(steps=steps))
    except ConfigError as error:
        print(f"{model.name}: {error}", file=sys.stderr)
        return False
    return True


def read_log(log: Path) -> list[LogLine]:
    """Read the log, and remove an incomplete last line from the file.

    Args:
        log: The log; it need not exist.

    Returns:
        Its lines.
    """
    if not log.is_file():
        return []
    lines = [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
    log.write_text("".join(lines), encoding="utf-8")
    return [json.loads(line) for line in lines]


def run_jobs(jobs: list[Job], log: Path, workers: int) -> list[LogLine]:
    """Run the jobs that the log lacks, and add their lines to it.

    Args:
        jobs: All jobs.
        log: The log.
        workers: Number of processes.

    Returns:
        The lines of all jobs.
    """
    hashes = {job.model_folder: checkpoint.read_model(job.model_folder).hash for job in jobs}
    jobs_by_key = {(hashes[job.model_folder], job.steps, job.case.name): job for job in jobs}
    lines_by_key = {(line["hash"], line["steps"], line["case"]): line for line in read_log(log)}
    lines = [line for key, line in lines_by_key.items() if key in jobs_by_key]
    missing = [job for key, job in jobs_by_key.items() if key not in lines_by_key]

    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(workers) as executor,
        progress_bars() as report_progress,
        log.open("a", encoding="utf-8") as file,
    ):
        report_progress("synthesizing", 0, len(missing))
        futures = [executor.submit(score_steps, job) for job in missing]
        for n_finished, future in enumerate(as_completed(futures), 1):
            lines.append(future.result())
            file.write(json.dumps(lines[-1]) + "\n")
            file.flush()
            report_progress("synthesizing", n_finished, len(missing))
    return lines


def compute_means(lines: list[LogLine]) -> Means:
    """Compute mean and 95 % interval over patients of every column.

    Args:
        lines: Lines of the log.

    Returns:
        Model -> steps -> column -> mean and interval.
    """
    lines_by_setting: dict[tuple[str, int], list[LogLine]] = {}
    for line in lines:
        lines_by_setting.setdefault((line["model"], line["steps"]), []).append(line)

    means: Means = {}
    for (model, steps), rows in sorted(lines_by_setting.items()):
        intervals = {}
        for column in COLUMNS:
            values = [float("nan") if row[column] is None else row[column] for row in rows]
            intervals[column] = statistics.confidence_interval(values)
        means.setdefault(model, {})[steps] = intervals
    return means


def render_table(means: Means, n_patients: int) -> str:
    """Render the means as Markdown.

    Args:
        means: Output of `compute_means`.
        n_patients: Number of patients.

    Returns:
        The table, and the meaning of its columns.
    """
    lines = [f"| {n_patients} patients | steps | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for model, means_by_steps in means.items():
        for steps, intervals in means_by_steps.items():
            cells = [f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in intervals.values()]
            lines.append(f"| {model} | {steps} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- `{name}`: {title}" for name, title in COLUMNS.items())])


def plot_means(means: Means) -> Figure:
    """Plot every column against steps, with one line for each formulation and bands for the intervals.

    Args:
        means: Output of `compute_means`.

    Returns:
        The figure.
    """
    figure = figures.new_figure(9, 6.2, layout="constrained")
    step_counts = sorted({steps for means_by_steps in means.values() for steps in means_by_steps})
    for axis, (column, title) in zip(figure.subplots(2, 2).flat, COLUMNS.items(), strict=True):
        for model, means_by_steps in means.items():
            steps = list(means_by_steps)
            mean, low, high = np.array([means_by_steps[n][column] for n in steps]).T
            (line,) = axis.plot(steps, mean, "o-", label=model, markersize=4)
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set_xlim(step_counts[0] / 1.2, step_counts[-1] * 1.2)
        axis.set_xticks(step_counts, map(str, step_counts))
        axis.set_yscale("log" if column == "seconds" else "linear")
        axis.set_title(title, color=figures.INK, fontsize=9)
        axis.set_facecolor(figures.BACKGROUND)
        axis.tick_params(which="both", colors=figures.MUTED, labelsize=8)
        axis.grid(color=figures.MUTED, alpha=0.2)
    figure.supxlabel("sampling steps", color=figures.INK, fontsize=9)
    figure.axes[0].legend(fontsize=8, labelcolor=figures.INK, facecolor=figures.BACKGROUND)
    return figure


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of cases with T1ce")
    parser.add_argument("models", type=Path, help="folder of model folders")
    parser.add_argument("log", type=Path, help="log with one JSON line for each synthesis")
    parser.add_argument("--split", type=Path, default=Path("models/split.json"), help="split file")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 20, 100], help="numbers of sampling steps")
    parser.add_argument("--cases", nargs="*", help="score only these cases, for a quick look")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="number of processes")
    parser.add_argument("--picture", type=Path, help="PNG file to plot")
    args = parser.parse_args()

    for folder in (args.data, args.models):
        if not folder.is_dir():
            sys.exit(f"{folder}: no such folder")
    jobs = list_jobs(args.models, args.data, splits.read(args.split), args.steps, args.cases)
    if not jobs:
        sys.exit(f"{args.models} holds no model, or --cases selects none of its held-out patients")

    lines = run_jobs(jobs, args.log, args.workers)
    means = compute_means(lines)
    print(render_table(means, len({line["case"] for line in lines})))
    if args.picture:
        figures.save_png(plot_means(means), args.picture)


if __name__ == "__main__":
    main()
