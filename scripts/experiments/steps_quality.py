"""Quality against sampling steps, formulation by formulation: python benchmarks/steps_quality.py DATA MODELS LOG.jsonl

MODELS holds model folders, one per formulation, each trained without the same fold of the split; DATA holds the
patients, of whom that fold's are scored. LOG keeps one line per model, number of steps and patient: the same command
goes on where it was stopped. Prints a Markdown table with 95 % bootstrap intervals over patients, and draws it with
--picture. Step counts that a formulation does not know (regression has one) are left out. Seconds are those of one
thread of the CPU, so that patients can be scored side by side.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from eval_real import regions_of
from matplotlib.figure import Figure
from rich.console import Console

from dsdiff.data import splits
from dsdiff.errors import ConfigError
from dsdiff.evaluation import brain_scores, statistics, texture, voxelwise
from dsdiff.inference import model as models
from dsdiff.inference.model import Model
from dsdiff.inference.options import plan
from dsdiff.inference.pipeline import run
from dsdiff.io import cases
from dsdiff.io.cases import Case
from dsdiff.model import checkpoint
from dsdiff.reporting import preview
from dsdiff.system.console import bars
from dsdiff.volume import to_canonical

COLUMNS = {
    "psnr_fit": "PSNR in the brain after the best linear map, dB",
    "auc_tumour": "AUC of enhancement within the tumour",
    "sharpness": "sharpness against the truth's",
    "seconds": "CPU seconds per patient",
}
Line = dict[str, Any]
Job = tuple[Path, Case, int]


def score_steps(folder: Path, case: Case, steps: int) -> Line:
    """One line of the log: a patient synthesised by a model in so many steps. None stands for NaN."""
    torch.set_num_threads(1)
    model = models.load(folder, torch.device("cpu"))
    volumes = cases.load(case, (*model.contrasts, "t1ce"))
    began = time.process_time()
    result = run({name: volumes[name] for name in model.contrasts}, model, plan(model, steps=steps))
    seconds = time.process_time() - began
    truth, t1 = (to_canonical(volumes[name]).array for name in ("t1ce", "t1"))
    brain, made = (result.prepared.whole(image) for image in (result.prepared.brain, result.z))
    found = brain_scores.score(made, truth, t1, regions_of(case, brain))
    on_one_scale = (voxelwise.robust(image, brain) for image in (made, truth))
    found |= {"sharpness": texture.sharpness(*on_one_scale, brain), "seconds": seconds}
    key = {"model": folder.name, "hash": model.hash, "steps": steps, "case": case.name}
    return key | {name: round(value, 5) if np.isfinite(value) else None for name, value in found.items()}


def jobs(root: Path, data: Path, split: splits.Split, steps: list[int], only: list[str] | None) -> list[Job]:
    """What is to be done: every model, patient of its held-out fold and number of steps that it can take."""
    found = {case.name: case for case in cases.discover(data)}
    todo: list[Job] = []
    folds = set[int]()
    for folder in sorted(path for path in root.iterdir() if (path / checkpoint.WEIGHTS).is_file()):
        facts = checkpoint.read(folder).facts
        if facts.get("split") != split.hash or "fold" not in facts:
            sys.exit(f"{folder} was not trained without a fold of split {split.hash}: it says {facts}")
        folds.add(int(facts["fold"]))
        if len(folds) > 1:
            sys.exit(f"{root} holds models of folds {sorted(folds)}: they would be scored on other patients each")
        model = models.load(folder, torch.device("cpu"))
        names = [name for name in split.held_out(int(facts["fold"])) if only is None or name in only]
        if lost := sorted(set(names) - set(found)):
            sys.exit(f"{data} lacks patients of the split: {', '.join(lost[:3])}")
        todo += [(folder, found[name], n) for n in steps if can_take(model, n) for name in names]
    return todo


def can_take(model: Model, steps: int) -> bool:
    """Whether the model's formulation knows so many steps."""
    try:
        return bool(plan(model, steps=steps))
    except ConfigError as error:
        print(f"{model.name}: {error}", file=sys.stderr)
        return False


def finished(log: Path) -> list[Line]:
    """The lines written so far; a torn last one is dropped from the file."""
    if not log.is_file():
        return []
    lines = [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
    log.write_text("".join(lines), encoding="utf-8")
    return [json.loads(line) for line in lines]


def complete(todo: list[Job], log: Path, workers: int) -> list[Line]:
    """The lines of all jobs, of which the missing are computed and written."""
    hashes = {folder: checkpoint.read(folder).hash for folder, _, _ in todo}
    keys = {(hashes[folder], steps, case.name) for folder, case, steps in todo}
    lines = [line for line in finished(log) if (line["hash"], line["steps"], line["case"]) in keys]
    done = {(line["hash"], line["steps"], line["case"]) for line in lines}
    missing = [(folder, case, n) for folder, case, n in todo if (hashes[folder], n, case.name) not in done]
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(workers) as pool,
        bars(Console(stderr=True)) as progress,
        log.open("a", encoding="utf-8") as file,
    ):
        task = progress.add_task("synthesising", total=len(missing))
        for future in as_completed([pool.submit(score_steps, *job) for job in missing]):
            lines.append(future.result())
            file.write(json.dumps(lines[-1]) + "\n")
            file.flush()
            progress.advance(task)
    return lines


Means = dict[str, dict[int, dict[str, tuple[float, float, float]]]]  # model -> steps -> column -> mean and interval


def means(lines: list[Line]) -> Means:
    """Mean and 95 % interval over patients of every column."""
    out: Means = {}
    for name in sorted({line["model"] for line in lines}):
        for steps in sorted({line["steps"] for line in lines if line["model"] == name}):
            rows = [line for line in lines if (line["model"], line["steps"]) == (name, steps)]
            values = {c: [np.nan if row[c] is None else row[c] for row in rows] for c in COLUMNS}
            out.setdefault(name, {})[steps] = {column: statistics.interval(values[column]) for column in COLUMNS}
    return out


def table(found: Means, patients: int) -> str:
    """The means as Markdown."""
    lines = [f"| {patients} patients | steps | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, by_steps in found.items():
        for steps, cells in by_steps.items():
            shown = [f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in cells.values()]
            lines.append(f"| {name} | {steps} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", *(f"- `{name}`: {text}" for name, text in COLUMNS.items())])


def draw(found: Means) -> Figure:
    """Every column against steps, a line per formulation, intervals as bands."""
    figure = Figure(figsize=(9, 6.2), facecolor=preview.BACKGROUND, dpi=110, layout="constrained")
    counts = sorted({steps for by_steps in found.values() for steps in by_steps})
    for axis, (column, title) in zip(figure.subplots(2, 2).flat, COLUMNS.items(), strict=True):
        for name, by_steps in found.items():
            steps = list(by_steps)
            mean, low, high = np.array([by_steps[n][column] for n in steps]).T
            (line,) = axis.plot(steps, mean, "o-", label=name, markersize=4)
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set_xlim(counts[0] / 1.2, counts[-1] * 1.2)
        axis.set_xticks(counts, map(str, counts))
        axis.set_yscale("log" if column == "seconds" else "linear")
        axis.set_title(title, color=preview.INK, fontsize=9)
        axis.set_facecolor(preview.BACKGROUND)
        axis.tick_params(which="both", colors=preview.FAINT, labelsize=8)
        axis.grid(color=preview.FAINT, alpha=0.2)
    figure.supxlabel("sampling steps", color=preview.INK, fontsize=9)
    figure.axes[0].legend(fontsize=8, labelcolor=preview.INK, facecolor=preview.BACKGROUND)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--split", type=Path, default=Path("models/split.json"))
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 20, 100])
    parser.add_argument("--cases", nargs="*", help="these patients only, for a quick look")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--picture", type=Path, help="PNG to draw")
    args = parser.parse_args()
    for folder in (args.data, args.models):
        if not folder.is_dir():
            sys.exit(f"{folder}: no such folder")
    todo = jobs(args.models, args.data, splits.read(args.split), args.steps, args.cases)
    if not todo:
        sys.exit(f"{args.models} holds no model, or none of its held-out patients is asked for")
    lines = complete(todo, args.log, args.workers)
    found = means(lines)
    print(table(found, len({line["case"] for line in lines})))
    if args.picture:
        preview.save(draw(found), args.picture)


if __name__ == "__main__":
    main()
