"""Time one volume with dsdiff, MONAI and diffusers: networks of the same size, the same steps and the same volume.

python scripts/benchmarks/inference.py [CASE] [--slices 6] [--rounds 3] [--steps 1 20] [--only unet dit vit] [--cpu]
    [--out scripts/benchmarks/results/inference.json] [--picture docs/pictures/inference.png]

CASE is the folder of one patient (default: the bundled phantom), 240 x 240 x 155 voxels. Contenders run in turn, round
by round. Prints medians and ratios as Markdown, with the ceilings of the machine, measured in the same rounds.

- dsdiff: what `dsdiff synth` does between reading and writing, with `--engine auto` and with `--engine eager`.
- MONAI: DiffusionModelUNet, DiffusionInferer(...).sample(mode="concat") with DDIMScheduler, as in its 2-D tutorials.
- diffusers: UNet2DModel and DDIMScheduler in the loop of its documentation, with concatenated conditioning.
- dit, vit: dsdiff's networks of the published sizes, and a naive loop over them (float32, all slices, not cropped).

MONAI and diffusers do not know where the brain is: they compute all 155 slices of 240 x 240. All of their slices take
the same time, so `--slices N` computes N of them and scales the time to 155; dsdiff computes 4 N evenly spaced slices,
and its time is scaled by pixels. Without `--slices` all is computed, which takes hours for 20 steps. All weights are
random, none is zero. `--cpu` measures CPU seconds divided by threads, for a machine that other users load.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from benchmark_files import FIGURES, RESULTS, create_parser, read_load_average, write_results
from ceilings import measure_ceilings
from contender import Contender
from contenders import build_contenders
from matplotlib.figure import Figure

from dsdiff.inference import parallel
from dsdiff.io.cases import discover_cases, load_volumes
from dsdiff.preprocessing import normalize
from dsdiff.reporting import figures
from dsdiff.system import device

DSDIFF_COLOR = "#8ab4f8"
ContenderKey = tuple[str, str]  # group, name


def measure_contenders(
    contenders: list[Contender], rounds: int, clock: Callable[[], float], threads: int
) -> dict[str, Any]:
    """Time all contenders in turn, and measure the ceilings of the machine between the rounds.

    Args:
        contenders: The contenders.
        rounds: Number of rounds.
        clock: Returns seconds.
        threads: Number of threads.

    Returns:
        Median ceilings, and one row for each contender.
    """
    seconds: dict[ContenderKey, list[float]] = {(c.group, c.name): [] for c in contenders}
    all_ceilings = [measure_ceilings(threads, clock)]
    for round_number in range(1, rounds + 1):
        for contender in contenders:
            start = clock()
            contender.compute()
            volume_seconds = (clock() - start) / contender.share
            seconds[contender.group, contender.name].append(volume_seconds)
            print(f"round {round_number}: {contender.group}, {contender.name}: {volume_seconds:.1f} s", file=sys.stderr)
        all_ceilings.append(measure_ceilings(threads, clock))

    names = vars(all_ceilings[0])
    ceilings = {name: statistics.median(getattr(ceiling, name) for ceiling in all_ceilings) for name in names}
    rows = [contender_row(contender, contenders, seconds, ceilings) for contender in contenders]
    return {"ceilings": ceilings, "rows": rows}


def contender_row(
    contender: Contender,
    contenders: list[Contender],
    seconds: dict[ContenderKey, list[float]],
    ceilings: dict[str, float],
) -> dict[str, Any]:
    """Summarize the times of one contender.

    Args:
        contender: The contender.
        contenders: All contenders; the first of a group is its reference.
        seconds: Seconds for a whole volume in each round.
        ceilings: Ceilings of the machine.

    Returns:
        One row of the results.
    """
    median = statistics.median(seconds[contender.group, contender.name])
    reference = next(c for c in contenders if c.group == contender.group)
    return {
        "group": contender.group,
        "name": contender.name,
        "parameters_millions": contender.parameters_millions,
        "tflop": contender.gflops / 1e3,
        "computed_share": contender.share,
        "seconds": seconds[contender.group, contender.name],
        "median_seconds": median,
        "ratio": median / statistics.median(seconds[reference.group, reference.name]),
        "gflops_per_second": contender.gflops / median,
        "share_of_bf16_conv": contender.gflops / median / ceilings["conv_bf16"],
    }


def render_table(results: dict[str, Any]) -> str:
    """Render the results as Markdown.

    Args:
        results: Output of `measure_contenders`.

    Returns:
        A sentence on the ceilings, and a table.
    """
    ceilings = results["ceilings"]
    lines = [
        f"Ceilings: convolution (3 x 3) {ceilings['conv_bf16']:.0f} GFLOP/s in bf16, {ceilings['conv_fp32']:.0f} in "
        f"fp32; matrix product {ceilings['matmul_bf16']:.0f} and {ceilings['matmul_fp32']:.0f}; copy "
        f"{ceilings['copy']:.1f} GB/s.",
        "",
        "| | parameters | TFLOP | computed | s per volume | relative time | GFLOP/s | of the bf16 convolution |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        lines.append(
            f"| {row['group']}: {row['name']} | {row['parameters_millions']:.1f} M | {row['tflop']:.2f} | "
            f"{row['computed_share']:.0%} | {row['median_seconds']:.1f} | {row['ratio']:.1f} | "
            f"{row['gflops_per_second']:.0f} | {row['share_of_bf16_conv']:.0%} |"
        )
    return "\n".join(lines)


def plot_results(results: dict[str, Any]) -> Figure:
    """Plot the seconds per volume, one bar for each contender.

    Args:
        results: Output of `measure_contenders`.

    Returns:
        The figure, with one panel for each group.
    """
    groups = list(dict.fromkeys(row["group"] for row in results["rows"]))
    rows_by_group = {group: [row for row in results["rows"] if row["group"] == group][::-1] for group in groups}
    figure = figures.new_figure(9.0, 0.9 + 0.42 * len(results["rows"]) + 0.3 * len(groups))
    heights = [len(rows) for rows in rows_by_group.values()]
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]

    for axis, (group, rows) in zip(axes, rows_by_group.items(), strict=True):
        seconds = [row["median_seconds"] for row in rows]
        colors = [DSDIFF_COLOR if "auto" in row["name"] else figures.MUTED for row in rows]
        bars = axis.barh([row["name"] for row in rows], seconds, color=colors)
        labels = [f"{row['median_seconds']:.0f} s, {row['ratio']:.1f} x" for row in rows]
        axis.bar_label(bars, labels, color=figures.INK, fontsize=8, padding=4)
        axis.set_title(group, color=figures.INK, fontsize=9, loc="left")
        axis.set_xlim(0, 1.2 * max(seconds))
        axis.set_facecolor(figures.BACKGROUND)
        axis.tick_params(colors=figures.MUTED, labelsize=8)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_xticks([])

    figure.suptitle("Seconds for a 240 x 240 x 155 volume", color=figures.INK, fontsize=10)
    figure.tight_layout()
    return figure


def describe_machine(threads: int, clock_name: str) -> dict[str, object]:
    """Describe the machine and the versions of the libraries.

    Args:
        threads: Number of threads.
        clock_name: CPU or wall.

    Returns:
        A dictionary for the results file.
    """
    cpu = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            cpu = line.split(":")[1].strip()
            break

    versions = {name: version(name) for name in ("torch", "monai", "diffusers")}
    machine = {"cpu": cpu, "threads": threads, "clock": clock_name, "load": read_load_average()}
    return {**machine, "date": str(date.today()), **versions}


def main() -> None:
    """Run the benchmark."""
    parser = create_parser(__doc__)
    phantom = files("dsdiff").joinpath("assets", "phantom")
    parser.add_argument("case", type=Path, nargs="?", default=phantom, help="folder of one patient")
    parser.add_argument("--slices", type=int, help="compute only this many slices and scale the time; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 20], help="sampling steps of the unet")
    parser.add_argument("--only", nargs="+", default=["unet", "dit", "vit"], choices=["unet", "dit", "vit"])
    parser.add_argument("--threads", type=int, help="number of threads; default: all cores")
    parser.add_argument(
        "--cpu", action="store_true", help="measure CPU seconds divided by threads, not wall-clock time"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "inference.json", help="JSON file of the results")
    parser.add_argument("--picture", type=Path, default=FIGURES / "inference.png", help="PNG file to plot")
    args = parser.parse_args()

    device.set_threads(args.threads, parallel.benchmark_thread_count)
    threads = torch.get_num_threads()
    clock = (lambda: time.process_time() / threads) if args.cpu else time.perf_counter

    (case,) = discover_cases(Path(str(args.case)))
    loaded = normalize.preprocess(load_volumes(case, ("t1", "t2", "flair")))
    contenders = build_contenders(loaded, args.only, args.steps, args.slices)
    machine = describe_machine(threads, "CPU" if args.cpu else "wall")
    results = {"machine": machine, "case": case.name} | measure_contenders(contenders, args.rounds, clock, threads)

    write_results(results, args.out)
    figures.save_png(plot_results(results), args.picture)
    print(render_table(results))


if __name__ == "__main__":
    main()
