"""`dsdiff synth` from process start to files on disk: seconds and peak memory, and how they grow.

python benchmarks/scaling.py [CASE] [--rounds 3] [--only bars slices ...] [--out benchmarks/results/scaling.json]
                             [--picture docs/pictures/scaling.png] [--model default] [--cpu]

CASE is a patient's folder (by default the bundled phantom). Every point is a process of its own; rounds are interleaved
and medians taken. `bars`: one patient, eight samples, and what each further case of a folder adds. The others vary one
thing: slices (of the volume, the rest cut away), size (in plane, nearest neighbours), steps, samples (of four steps),
cases (copies in one folder). Prints Markdown, with a straight line through each and its R squared.
`--cpu` counts CPU seconds, for a machine that others use too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from dsdiff.io import cases
from dsdiff.reporting import preview

SWEEPS = {"slices": [40, 80, 120, 155], "size": [120, 180, 240, 300], "steps": [1, 2, 4, 8], "samples": [2, 4, 8],
          "cases": [1, 2, 4, 8]}  # fmt: skip
PROGRAM = "from dsdiff.cli.main import run; run()"
Point = tuple[str, float]
Measured = dict[str, float]


def synth(inputs: Path, model: str, options: list[str]) -> Measured:
    """Wall and CPU seconds and peak gigabytes of one `dsdiff synth`."""
    with tempfile.TemporaryDirectory() as out:
        line = [sys.executable, "-c", PROGRAM, "synth", str(inputs), "-o", out, "--model", model, *options]
        since = time.perf_counter()
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - since
    if status:
        sys.exit(f"failed: dsdiff {' '.join(line[3:])}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak_gb": usage.ru_maxrss * 1024 / 1e9}


def copies(case: cases.Case, folder: Path, count: int, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A folder of `count` cases alike, each volume changed."""
    changed = {}
    for contrast in ("t1", "t2", "flair"):
        image = nib.load(case.files[contrast])
        array = change(np.asarray(image.dataobj))
        changed[contrast] = nib.Nifti1Image(array, image.affine)
    for number in range(count):
        place = folder / f"case{number}"
        place.mkdir(parents=True)
        for contrast, image in changed.items():
            nib.save(image, place / f"case{number}_{contrast}.nii.gz")
    return folder


def middle(count: int) -> Callable[[np.ndarray], np.ndarray]:
    """So many slices about the middle."""
    return lambda array: array[:, :, (array.shape[2] - count) // 2 :][:, :, :count]


def enlarged(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """So many voxels in the plane."""
    return lambda array: ndimage.zoom(array, (size / array.shape[0], size / array.shape[1], 1), order=0)


def points(case: cases.Case, only: list[str], folder: Path) -> dict[Point, tuple[Path, list[str]]]:
    """What is run: inputs and options of every point."""
    whole = copies(case, folder / "whole", 1, lambda array: array)
    todo: dict[Point, tuple[Path, list[str]]] = {}
    if "bars" in only:
        todo["one patient", 1] = (whole, [])
        todo["eight samples", 8] = (whole, ["--samples", "8"])
        todo["four cases", 4] = (copies(case, folder / "bars", 4, lambda array: array), [])
    for name in (name for name in SWEEPS if name in only):
        for value in SWEEPS[name]:
            inputs, options = whole, []
            if name == "slices":
                inputs = copies(case, folder / f"slices{value}", 1, middle(value))
            elif name == "size":
                inputs = copies(case, folder / f"size{value}", 1, enlarged(value))
            elif name == "cases":
                inputs = copies(case, folder / f"cases{value}", value, lambda array: array)
            elif name == "steps":
                options = ["--steps", str(value)]
            else:
                options = ["--samples", str(value), "--steps", "4"]
            todo[name, value] = (inputs, options)
    return todo


def medians(runs: dict[Point, list[Measured]]) -> list[dict]:
    """One row for each point."""
    return [
        {"sweep": name, "value": value, "runs": len(found)}
        | {key: statistics.median(one[key] for one in found) for key in found[0]}
        for (name, value), found in runs.items()
    ]


def line(rows: list[dict], clock: str) -> tuple[float, float, float]:
    """Slope, intercept and R squared of seconds against what is varied; pixels, not sides, for the size."""
    x = np.array([row["value"] ** 2 if row["sweep"] == "size" else row["value"] for row in rows], float)
    y = np.array([row[clock] for row in rows])
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - (slope * x + intercept)
    return float(slope), float(intercept), float(1 - rest.var() / y.var())


def table(rows: list[dict], clock: str) -> str:
    """Every point as Markdown, and the straight lines."""
    lines = ["| | | s (wall) | s (CPU) | peak GB |", "|---|---|---|---|---|"]
    lines += [f"| {r['sweep']} | {r['value']} | {r['wall']:.1f} | {r['cpu']:.1f} | {r['peak_gb']:.2f} |" for r in rows]
    bars = {row["sweep"]: row[clock] for row in rows if row["sweep"] not in SWEEPS}
    if "four cases" in bars:
        further = (bars["four cases"] - bars["one patient"]) / 3
        lines += ["", f"Each further case of a folder: {further:.1f} s ({clock})."]
    lines.append("")
    for name in dict.fromkeys(row["sweep"] for row in rows if row["sweep"] in SWEEPS):
        own = [row for row in rows if row["sweep"] == name]
        slope, start, r2 = line(own, clock)
        unit = "10,000 pixels" if name == "size" else name.rstrip("s")
        slope = slope * 1e4 if name == "size" else slope
        low, high = min(r["peak_gb"] for r in own), max(r["peak_gb"] for r in own)
        lines.append(
            f"- {name}: {start:.1f} s and {slope:.3f} s for each {unit}, R squared {r2:.3f}; "
            f"memory {low:.2f} to {high:.2f} GB"
        )
    return "\n".join(lines)


def draw(rows: list[dict], clock: str) -> Figure:
    """Seconds and memory against what is varied."""
    names = list(dict.fromkeys(row["sweep"] for row in rows if row["sweep"] in SWEEPS))
    figure = Figure(figsize=(2.6 * len(names), 4.6), facecolor=preview.BACKGROUND, dpi=110, layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    for number, (column, name) in enumerate(zip(axes.T, names, strict=True)):
        own = [row for row in rows if row["sweep"] == name]
        for axis, key, label, colour in zip(
            column, (clock, "peak_gb"), (f"seconds ({clock})", "peak memory, GB"), ("#8ab4f8", "#fdd663"), strict=True
        ):
            axis.plot([r["value"] for r in own], [r[key] for r in own], "o-", color=colour, markersize=4)
            axis.set_ylim(0, 1.15 * max(r[key] for r in own))
            axis.set_facecolor(preview.BACKGROUND)
            axis.tick_params(colors=preview.FAINT, labelsize=8)
            axis.grid(color=preview.FAINT, alpha=0.2)
            if number == 0:
                axis.set_ylabel(label, color=preview.INK, fontsize=9)
        column[1].set_xlabel(name, color=preview.INK, fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path, nargs="?", default=files("dsdiff").joinpath("assets", "phantom"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["bars", *SWEEPS], choices=["bars", *SWEEPS])
    parser.add_argument("--model", default="default")
    parser.add_argument("--cpu", action="store_true", help="lines and picture of CPU seconds rather than of the wall's")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scaling.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/scaling.png"))
    args = parser.parse_args()
    clock = "cpu" if args.cpu else "wall"
    (case,) = cases.discover(Path(str(args.case)))
    with tempfile.TemporaryDirectory() as folder:
        todo = points(case, args.only, Path(folder))
        runs: dict[Point, list[Measured]] = {point: [] for point in todo}
        for number in range(args.rounds):
            for point, (inputs, options) in todo.items():
                runs[point].append(synth(inputs, args.model, options))
                print(f"round {number + 1}: {point[0]} {point[1]}: {runs[point][-1]}", file=sys.stderr)
    rows = medians(runs)
    load = Path("/proc/loadavg").read_text(encoding="utf-8").split()[0] if Path("/proc/loadavg").exists() else "unknown"
    facts = {"case": case.name, "model": args.model, "date": str(date.today()), "cores": os.cpu_count(), "load": load}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
    if any(row["sweep"] in SWEEPS for row in rows):
        preview.save(draw(rows, clock), args.picture)
    print(table(rows, clock))


if __name__ == "__main__":
    main()
