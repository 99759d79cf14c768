"""One volume through our engine, MONAI and diffusers, side by side: the same size of network, steps and volume.

python benchmarks/inference.py [CASE] [--slices 6] [--rounds 3] [--steps 1 20] [--out benchmarks/results/inference.json]
                               [--picture docs/pictures/inference.png] [--only unet dit vit] [--cpu]

CASE is a patient's folder (by default the bundled phantom), 240 x 240 x 155 voxels. Contenders take turns, round by
round; medians and ratios are printed as Markdown beside the machine's ceilings, measured in the same rounds.

- ours: what `dsdiff synth` does between reading and writing, `--engine auto`; and the same by `--engine eager`.
- MONAI: DiffusionModelUNet, DiffusionInferer(...).sample(mode="concat") with DDIMScheduler, as its 2-D tutorials do.
- diffusers: UNet2DModel and DDIMScheduler in the loop of its documentation, the condition concatenated.
- dit, vit: our networks of the table's sizes, and the same run naively (float32, every slice, not cropped).

The peers know no brain: they compute all 155 slices of 240 x 240. Every slice of theirs takes the same time, so with
`--slices N` N of them are computed and the time is scaled to 155; ours are 4 N evenly spaced ones, scaled by pixels.
Without, everything is computed whole, which takes hours for 20 steps. Weights are random and awake. `--cpu` counts CPU
seconds divided by threads, for a machine that others use too.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch
from ceilings import ceilings
from contenders import Contender, contenders
from matplotlib.figure import Figure

from dsdiff.inference import parallel
from dsdiff.io import cases
from dsdiff.preprocessing import normalize
from dsdiff.reporting import preview
from dsdiff.system import device as devices


def measure(todo: list[Contender], rounds: int, clock: Callable[[], float], threads: int) -> dict:
    """Seconds for a whole volume of each, round by round, and the ceilings before and after."""
    seconds: dict[tuple[str, str], list[float]] = {(c.group, c.name): [] for c in todo}
    limits = [ceilings(threads, clock)]
    for number in range(rounds):
        for one in todo:
            since = clock()
            one.piece()
            seconds[one.group, one.name].append((clock() - since) / one.share)
            print(
                f"round {number + 1}: {one.group}, {one.name}: {seconds[one.group, one.name][-1]:.1f} s",
                file=sys.stderr,
            )
        limits.append(ceilings(threads, clock))
    best = {name: statistics.median(getattr(limit, name) for limit in limits) for name in vars(limits[0])}
    rows = []
    for one in todo:
        taken = statistics.median(seconds[one.group, one.name])
        first = next(c for c in todo if c.group == one.group)
        rows.append({
            "group": one.group, "name": one.name, "parameters_millions": one.parameters, "tflop": one.gflops / 1e3,
            "computed_share": one.share, "seconds": seconds[one.group, one.name], "median_seconds": taken,
            "ratio": taken / statistics.median(seconds[first.group, first.name]),
            "gflops_per_second": one.gflops / taken, "share_of_bf16_conv": one.gflops / taken / best["conv_bf16"],
        })  # fmt: skip
    return {"ceilings": best, "rows": rows}


def table(found: dict) -> str:
    """The medians as Markdown."""
    limit = found["ceilings"]
    lines = [
        f"Ceilings: convolution (3 x 3) {limit['conv_bf16']:.0f} GFLOP/s in bf16, {limit['conv_fp32']:.0f} in fp32; "
        f"matrix product {limit['matmul_bf16']:.0f} and {limit['matmul_fp32']:.0f}; copy {limit['copy']:.1f} GB/s.",
        "",
        "| | parameters | TFLOP | computed | s for a volume | times ours | GFLOP/s | of the bf16 convolution |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['group']}: {row['name']} | {row['parameters_millions']:.1f} M | {row['tflop']:.2f} | "
            f"{row['computed_share']:.0%} | {row['median_seconds']:.1f} | {row['ratio']:.1f} | "
            f"{row['gflops_per_second']:.0f} | {row['share_of_bf16_conv']:.0%} |"
        )
    return "\n".join(lines)


def draw(found: dict) -> Figure:
    """Seconds for a volume, a bar each, by group."""
    groups = list(dict.fromkeys(row["group"] for row in found["rows"]))
    figure = Figure(
        figsize=(9, 0.9 + 0.42 * len(found["rows"]) + 0.3 * len(groups)), facecolor=preview.BACKGROUND, dpi=110
    )
    counts = [sum(row["group"] == group for row in found["rows"]) for group in groups]
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=counts)[:, 0]
    for axis, group in zip(axes, groups, strict=True):
        rows = [row for row in found["rows"] if row["group"] == group][::-1]
        colours = ["#8ab4f8" if "auto" in row["name"] else preview.FAINT for row in rows]
        bars = axis.barh([row["name"] for row in rows], [row["median_seconds"] for row in rows], color=colours)
        labels = [f"{row['median_seconds']:.0f} s, {row['ratio']:.1f} x" for row in rows]
        axis.bar_label(bars, labels, color=preview.INK, fontsize=8, padding=4)
        axis.set_title(group, color=preview.INK, fontsize=9, loc="left")
        axis.set_xlim(0, 1.2 * max(row["median_seconds"] for row in rows))
        axis.set_facecolor(preview.BACKGROUND)
        axis.tick_params(colors=preview.FAINT, labelsize=8)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_xticks([])
    figure.suptitle("Seconds for a 240 x 240 x 155 volume", color=preview.INK, fontsize=10)
    figure.tight_layout()
    return figure


def machine(threads: int, clock: str) -> dict[str, object]:
    """What the numbers were made on."""
    model = next(
        (line.split(":")[1].strip() for line in cpuinfo() if line.startswith("model name")), platform.machine()
    )
    load = Path("/proc/loadavg").read_text(encoding="utf-8").split()[0] if Path("/proc/loadavg").exists() else "unknown"
    versions = {name: version(name) for name in ("torch", "monai", "diffusers")}
    return {"cpu": model, "threads": threads, "clock": clock, "load": load, "date": str(date.today()), **versions}


def cpuinfo() -> list[str]:
    """Lines of Linux's description of the processor; none elsewhere."""
    place = Path("/proc/cpuinfo")
    return place.read_text(encoding="utf-8").splitlines() if place.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path, nargs="?", default=files("dsdiff").joinpath("assets", "phantom"))
    parser.add_argument("--slices", type=int, help="compute so many slices and scale; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 20], help="of the unet")
    parser.add_argument("--only", nargs="+", default=["unet", "dit", "vit"], choices=["unet", "dit", "vit"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds by threads, rather than the clock on the wall")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/inference.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/inference.png"))
    args = parser.parse_args()
    devices.set_threads(args.threads, parallel.worthwhile)
    threads = torch.get_num_threads()
    clock = (lambda: time.process_time() / threads) if args.cpu else time.perf_counter
    (case,) = cases.discover(Path(str(args.case)))
    prepared = normalize.apply(cases.load(case, ("t1", "t2", "flair")))
    todo = contenders(prepared, args.only, args.steps, args.slices)
    found = {"machine": machine(threads, "CPU" if args.cpu else "wall"), "case": case.name} | measure(
        todo, args.rounds, clock, threads
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    preview.save(draw(found), args.picture)
    print(table(found))


if __name__ == "__main__":
    main()
