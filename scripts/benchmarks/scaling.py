"""Measure seconds and peak memory of `dsdiff synth` from process start to files on disk, and how they grow.

python scripts/benchmarks/scaling.py [CASE] [--rounds 3] [--only totals slices ...] [--model default] [--cpu]
    [--out scripts/benchmarks/results/scaling.json] [--picture docs/pictures/scaling.png]

CASE is the folder of one patient (default: the bundled phantom). Every measurement runs in its own process. Rounds are
interleaved, and results are medians. `totals` measures one patient, eight samples, and four cases. The other sweeps
vary one setting: slices (of the volume, cropped), size (in plane, nearest neighbor), steps, samples (with four steps)
and cases (copies in one folder). Prints Markdown with a linear fit of each sweep and its R squared. `--cpu` fits CPU
seconds, for a machine that other users load.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from benchmark_files import FIGURES, RESULTS, create_parser, read_load_average, write_results
from matplotlib.figure import Figure
from scipy import ndimage

from dsdiff.io.cases import Case, discover_cases
from dsdiff.reporting import figures

SWEEPS = {
    "slices": [40, 80, 120, 155],
    "size": [120, 180, 240, 300],
    "steps": [1, 2, 4, 8],
    "samples": [2, 4, 8],
    "cases": [1, 2, 4, 8],
}
PROGRAM = "from dsdiff.cli.main import run; run()"
SECONDS_COLOR, MEMORY_COLOR = "#8ab4f8", "#fdd663"
Measurement = dict[str, float]  # wall and cpu in seconds, peak_gb
EditArray = Callable[[np.ndarray], np.ndarray]


class Point(NamedTuple):
    """One setting of one sweep."""

    sweep: str
    value: float


class SynthJob(NamedTuple):
    """Inputs and options of one `dsdiff synth`."""

    inputs: Path
    options: list[str]


def measure_synth(job: SynthJob, model: str) -> Measurement:
    """Run `dsdiff synth` and measure it.

    Args:
        job: Inputs and options.
        model: Name or folder of a model.

    Returns:
        Wall-clock and CPU seconds, and peak memory in GB.
    """
    with tempfile.TemporaryDirectory() as out:
        arguments = ["synth", str(job.inputs), "-o", out, "--model", model, *job.options]
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    if status:
        sys.exit(f"failed: dsdiff {' '.join(arguments)}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "peak_gb": usage.ru_maxrss * 1024 / 1e9}


def write_copies(case: Case, folder: Path, n_copies: int, edit: EditArray = np.asarray) -> Path:
    """Write equal copies of a case.

    Args:
        case: The case.
        folder: Folder to write to.
        n_copies: Number of copies.
        edit: Changes the array of each volume.

    Returns:
        The folder.
    """
    images = {}
    for contrast in ("t1", "t2", "flair"):
        image = nib.load(case.files[contrast])
        images[contrast] = nib.Nifti1Image(edit(np.asarray(image.dataobj)), image.affine)
    for number in range(n_copies):
        case_folder = folder / f"case{number}"
        case_folder.mkdir(parents=True)
        for contrast, image in images.items():
            nib.save(image, case_folder / f"case{number}_{contrast}.nii.gz")
    return folder


def crop_slices(array: np.ndarray, n_slices: int) -> np.ndarray:
    """Crop a volume to its middle slices.

    Args:
        array: (x, y, z).
        n_slices: Number of slices to keep.

    Returns:
        The cropped volume.
    """
    return array[:, :, (array.shape[2] - n_slices) // 2 :][:, :, :n_slices]


def resize_in_plane(array: np.ndarray, size: int) -> np.ndarray:
    """Resize the slices of a volume by nearest neighbors.

    Args:
        array: (x, y, z).
        size: New height and width, in voxels.

    Returns:
        The resized volume.
    """
    return ndimage.zoom(array, (size / array.shape[0], size / array.shape[1], 1), order=0)


def prepare_jobs(case: Case, sweeps: list[str], folder: Path) -> dict[Point, SynthJob]:
    """Write the inputs of all measurements.

    Args:
        case: The case.
        sweeps: Names of the sweeps.
        folder: Folder of the inputs.

    Returns:
        The job of each point.
    """
    one_case = write_copies(case, folder / "one", 1)
    jobs: dict[Point, SynthJob] = {}
    if "totals" in sweeps:
        jobs[Point("one patient", 1)] = SynthJob(one_case, [])
        jobs[Point("eight samples", 8)] = SynthJob(one_case, ["--samples", "8"])
        jobs[Point("four cases", 4)] = SynthJob(write_copies(case, folder / "four", 4), [])
    for sweep, values in SWEEPS.items():
        if sweep in sweeps:
            for value in values:
                jobs[Point(sweep, value)] = prepare_job(case, sweep, value, one_case)
    return jobs


def prepare_job(case: Case, sweep: str, value: int, one_case: Path) -> SynthJob:
    """Write the inputs of one measurement.

    Args:
        case: The case.
        sweep: Name of the sweep.
        value: Value of the varied setting.
        one_case: Folder with one unchanged copy of the case.

    Returns:
        Inputs and options.
    """
    folder = one_case.parent / f"{sweep}{value}"
    if sweep == "slices":
        return SynthJob(write_copies(case, folder, 1, partial(crop_slices, n_slices=value)), [])
    if sweep == "size":
        return SynthJob(write_copies(case, folder, 1, partial(resize_in_plane, size=value)), [])
    if sweep == "cases":
        return SynthJob(write_copies(case, folder, value), [])
    if sweep == "steps":
        return SynthJob(one_case, ["--steps", str(value)])
    return SynthJob(one_case, ["--samples", str(value), "--steps", "4"])


def summarize(runs: dict[Point, list[Measurement]]) -> list[dict]:
    """Compute the medians of all points.

    Args:
        runs: Measurements of each point, one for each round.

    Returns:
        One row for each point.
    """
    rows = []
    for point, measurements in runs.items():
        medians = {key: statistics.median(m[key] for m in measurements) for key in measurements[0]}
        rows.append({"sweep": point.sweep, "value": point.value, "runs": len(measurements)} | medians)
    return rows


def fit_line(rows: list[dict], clock: str) -> tuple[float, float, float]:
    """Fit a line to seconds against the varied setting; against pixels for the size.

    Args:
        rows: Rows of one sweep.
        clock: wall or cpu.

    Returns:
        Slope, intercept and R squared.
    """
    x = np.array([row["value"] ** 2 if row["sweep"] == "size" else row["value"] for row in rows], float)
    y = np.array([row[clock] for row in rows])
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - (slope * x + intercept)
    return float(slope), float(intercept), float(1 - residual.var() / y.var())


def render_table(rows: list[dict], clock: str) -> str:
    """Render points and linear fits as Markdown.

    Args:
        rows: Output of `summarize`.
        clock: wall or cpu.

    Returns:
        A table and a list.
    """
    lines = ["| | | s (wall) | s (CPU) | peak GB |", "|---|---|---|---|---|"]
    for row in rows:
        seconds = f"{row['wall']:.1f} | {row['cpu']:.1f}"
        lines.append(f"| {row['sweep']} | {row['value']} | {seconds} | {row['peak_gb']:.2f} |")
    totals = {row["sweep"]: row[clock] for row in rows if row["sweep"] not in SWEEPS}
    if "four cases" in totals:
        seconds = (totals["four cases"] - totals["one patient"]) / 3
        lines += ["", f"Each further case of a folder: {seconds:.1f} s ({clock})."]

    lines.append("")
    for sweep in measured_sweeps(rows):
        sweep_rows = [row for row in rows if row["sweep"] == sweep]
        slope, intercept, r_squared = fit_line(sweep_rows, clock)
        unit = "10,000 pixels" if sweep == "size" else sweep.rstrip("s")
        slope = slope * 1e4 if sweep == "size" else slope
        memory = [row["peak_gb"] for row in sweep_rows]
        fit = f"{intercept:.1f} s and {slope:.3f} s for each {unit}, R squared {r_squared:.3f}"
        lines.append(f"- {sweep}: {fit}; memory {min(memory):.2f} to {max(memory):.2f} GB")
    return "\n".join(lines)


def measured_sweeps(rows: list[dict]) -> list[str]:
    """List the sweeps that were measured.

    Args:
        rows: Output of `summarize`.

    Returns:
        Names of sweeps.
    """
    return list(dict.fromkeys(row["sweep"] for row in rows if row["sweep"] in SWEEPS))


def plot_sweeps(rows: list[dict], clock: str) -> Figure:
    """Plot seconds and memory against the varied settings.

    Args:
        rows: Output of `summarize`.
        clock: wall or cpu.

    Returns:
        The figure, with one column for each sweep.
    """
    sweeps = measured_sweeps(rows)
    figure = figures.new_figure(2.6 * len(sweeps), 4.6, layout="constrained")
    axes = figure.subplots(2, len(sweeps), squeeze=False)
    panels = ((clock, f"seconds ({clock})", SECONDS_COLOR), ("peak_gb", "peak memory, GB", MEMORY_COLOR))
    for number, (column, sweep) in enumerate(zip(axes.T, sweeps, strict=True)):
        sweep_rows = [row for row in rows if row["sweep"] == sweep]
        for axis, (key, label, color) in zip(column, panels, strict=True):
            values = [row[key] for row in sweep_rows]
            axis.plot([row["value"] for row in sweep_rows], values, "o-", color=color, markersize=4)
            axis.set_ylim(0, 1.15 * max(values))
            axis.set_facecolor(figures.BACKGROUND)
            axis.tick_params(colors=figures.MUTED, labelsize=8)
            axis.grid(color=figures.MUTED, alpha=0.2)
            if number == 0:
                axis.set_ylabel(label, color=figures.INK, fontsize=9)
        column[1].set_xlabel(sweep, color=figures.INK, fontsize=9)
    return figure


def main() -> None:
    """Run the benchmark."""
    parser = create_parser(__doc__)
    phantom = files("dsdiff").joinpath("assets", "phantom")
    sweeps = ["totals", *SWEEPS]
    parser.add_argument("case", type=Path, nargs="?", default=phantom, help="folder of one patient")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--only", nargs="+", default=sweeps, choices=sweeps)
    parser.add_argument("--model", default="default", help="name or folder of a model")
    parser.add_argument("--cpu", action="store_true", help="fit and plot CPU seconds, not wall-clock seconds")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.json", help="JSON file of the results")
    parser.add_argument("--picture", type=Path, default=FIGURES / "scaling.png", help="PNG file to plot")
    args = parser.parse_args()

    clock = "cpu" if args.cpu else "wall"
    (case,) = discover_cases(Path(str(args.case)))
    with tempfile.TemporaryDirectory() as folder:
        jobs = prepare_jobs(case, args.only, Path(folder))
        runs: dict[Point, list[Measurement]] = {point: [] for point in jobs}
        for round_number in range(1, args.rounds + 1):
            for point, job in jobs.items():
                runs[point].append(measure_synth(job, args.model))
                print(f"round {round_number}: {point.sweep} {point.value}: {runs[point][-1]}", file=sys.stderr)

    rows = summarize(runs)
    metadata = {"case": case.name, "model": args.model, "date": str(date.today())}
    metadata |= {"cores": os.cpu_count(), "load": read_load_average()}
    write_results(metadata | {"rows": rows}, args.out)
    if measured_sweeps(rows):
        figures.save_png(plot_sweeps(rows, clock), args.picture)
    print(render_table(rows, clock))


if __name__ == "__main__":
    main()
