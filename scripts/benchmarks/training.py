"""Measure the time of a training step against a bare loop and against MONAI, and how time and memory grow.

python scripts/benchmarks/training.py [--out scripts/benchmarks/results/training.json]
    [--picture docs/pictures/training.png] [--minutes 4] [--quick]

All parts run on one CPU thread. All times are CPU seconds.
- `dsdiff train step` is all that `dsdiff train` does in a step: random times and noise, loss, gradients, clipping,
  AdamW, moving average, checks and log. The `bare loop` has the same network, loss and AdamW on the same synthetic
  batch, and nothing else.
- MONAI: DiffusionModelUNet with about as many parameters in the loop of MONAI's tutorial (DiffusionInferer in concat
  mode, mean squared error, Adam, float32), on slices of the same size with as many conditioning channels. It is
  compared with dsdiff as shipped (configs/bridge-small.yaml, bf16 if the CPU supports it), in float32, and in float32
  without pixel unshuffle, which is the resolution of MONAI.
- Growth: seconds of a step against the batch size; peak memory against the size of the slice, with the estimate of
  `dsdiff train --dry-run`. Each memory measurement runs in its own process.

The loops of a part take turns, one step each, and ratios are taken within a turn, so that other load on the machine
affects all of them. Results are medians over turns. Writes JSON and a picture, prints Markdown. Takes about 6 minutes
on an idle core; --quick is a smoke test.
"""

import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from benchmark_files import FIGURES, RESULTS, create_parser, write_results
from training_loops import (
    CPU,
    TrainStep,
    build_bare_step,
    build_dsdiff_step,
    build_monai_step,
    load_recipe,
    noise_batch,
)

from dsdiff.config.run import RunConfig
from dsdiff.profiling import cost, memory
from dsdiff.profiling.subprocess import run_in_subprocess
from dsdiff.reporting import figures
from dsdiff.system.device import peak_memory, resolve_precision
from dsdiff.training.trainer import Trainer

# Fractions of the CPU time.
BARE_LOOP_FRACTION, MONAI_FRACTION = 0.3, 0.7
Times = dict[str, list[float]]  # name of a loop -> seconds of its steps


def time_in_turns(steps: dict[str, TrainStep], min_seconds: float, min_turns: int) -> Times:
    """Time steps of several loops in turn, after one step that warms up. The order is reversed after each turn.

    Args:
        steps: Name of the loop -> step.
        min_seconds: CPU seconds to spend at least.
        min_turns: Number of turns to take at least.

    Returns:
        CPU seconds of all steps.
    """
    for step in steps.values():
        step()
    times: Times = {name: [] for name in steps}
    start, names = time.process_time(), list(steps)
    while len(times[names[0]]) < min_turns or time.process_time() - start < min_seconds:
        for name in names:
            step_start = time.process_time()
            steps[name]()
            times[name].append(time.process_time() - step_start)
        names.reverse()
    return times


def time_ratio(times: Times, name: str, reference: str) -> dict[str, float]:
    """Compute the ratio of the times of two loops, turn by turn.

    Args:
        times: Seconds of all steps.
        name: Name of a loop.
        reference: Name of the loop to divide by.

    Returns:
        Median and quartiles of the ratio, and the number of turns.
    """
    ratios = [a / b for a, b in zip(times[name], times[reference], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"median": round(median, 4), "low": round(low, 4), "high": round(high, 4), "turns": len(ratios)}


def measure_peak_memory(overrides: tuple[str, ...]) -> float:
    """Measure the peak memory of two training steps above that of the process; run it in its own process.

    Args:
        overrides: KEY=VALUE changes of the recipe.

    Returns:
        GB.
    """
    peak_memory(CPU)
    start_bytes = peak_memory(CPU)
    config = load_recipe(*overrides)
    trainer = Trainer(config, CPU)
    for step in range(2):
        trainer.train_step(noise_batch(config), torch.Generator().manual_seed(step))
    return (peak_memory(CPU) - start_bytes) / 1e9


def measure_growth(quick: bool) -> dict[str, list[dict[str, float]]]:
    """Measure seconds against the batch size, and memory against the size of the slice.

    Args:
        quick: Measure only the smallest sizes.

    Returns:
        Rows of both measurements.
    """
    batch_rows = []
    for batch_size in (1, 2) if quick else (1, 2, 4, 8, 12):
        step = build_dsdiff_step(load_recipe(f"training.batch_size={batch_size}"), Path(tempfile.mkdtemp()) / "run")
        times = time_in_turns({"dsdiff": step}, 0, 3)["dsdiff"]
        batch_rows.append({"batch": batch_size, "seconds": round(statistics.median(times), 3)})

    side_rows = []
    for side, batch_size in ((64, 2),) if quick else ((64, 4), (128, 4), (192, 4), (256, 4), (128, 16)):
        overrides = (f"data.crop=[{side},{side}]", f"training.batch_size={batch_size}")
        config = load_recipe(*overrides)
        half_precision = resolve_precision(CPU, config.training.precision) != "fp32"
        estimate = memory.estimate_memory(config, cost.count_cost(config, side, side), half_precision)
        estimated_gb = estimate.total_bytes(batch_size) / 1e9
        measured_gb = run_in_subprocess(measure_peak_memory, overrides)
        row = {
            "side": side,
            "batch": batch_size,
            "estimated": round(estimated_gb, 3),
            "measured": round(measured_gb, 3),
        }
        side_rows.append(row)
    return {"batch": batch_rows, "side": side_rows}


def plot_growth(growth: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Plot seconds against the batch size, and memory against the size of the slice.

    Args:
        growth: Output of `measure_growth`.
        path: PNG file to write.
    """
    figure = figures.new_figure(9.0, 3.6, figures.LIGHT_BACKGROUND, 130, "constrained")
    batch_axis, side_axis = figure.subplots(1, 2)
    rows = growth["batch"]
    batch_axis.plot([row["batch"] for row in rows], [row["seconds"] for row in rows], marker="o")
    batch_axis.set_xlabel("batch size (slices of 128 x 160)")
    batch_axis.set_ylabel("CPU seconds per step, one thread")

    rows = [row for row in growth["side"] if row["batch"] == growth["side"][0]["batch"]]
    for name, line_style in (("measured", "-"), ("estimated", "--")):
        side_axis.plot([row["side"] for row in rows], [row[name] for row in rows], line_style, marker="o", label=name)
    side_axis.set_xlabel(f"side of the slice, pixels (batch size {rows[0]['batch']})")
    side_axis.set_ylabel("peak memory of training, GB")
    side_axis.legend(frameon=False)

    for axis in (batch_axis, side_axis):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.save_png(figure, path)


def render_tables(results: dict[str, Any]) -> str:
    """Render the results as Markdown.

    Args:
        results: Content of the results file.

    Returns:
        Three tables.
    """
    lines = [f"`{results['command']}`, {results['date']}, torch {results['torch']}, one thread", ""]
    lines += ["| loop | parameters | CPU s per step | ratio |", "|---|---|---|---|"]
    for name, loop in results["loops"].items():
        ratios = []
        for reference, ratio in loop["ratios"].items():
            interval = f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
            ratios.append(f"{interval} of {reference} ({ratio['turns']} turns)")
        cells = [name, f"{loop['parameters'] / 1e6:.2f} M", f"{loop['seconds']:.3f}", "; ".join(ratios)]
        lines.append(f"| {' | '.join(cells)} |")

    lines += ["", "| side | batch | GB measured | GB estimated | measured / estimated |", "|---|---|---|---|---|"]
    for row in results["growth"]["side"]:
        measured_gb, estimated_gb = row["measured"], row["estimated"]
        ratio = measured_gb / estimated_gb
        lines.append(f"| {row['side']} | {row['batch']} | {measured_gb:.2f} | {estimated_gb:.2f} | {ratio:.2f} |")

    lines += ["", "| batch | CPU s per step | per slice |", "|---|---|---|"]
    for row in results["growth"]["batch"]:
        lines.append(f"| {row['batch']} | {row['seconds']:.2f} | {row['seconds'] / row['batch']:.3f} |")
    return "\n".join(lines)


def measure_bare_loop(min_seconds: float, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Compare a training step with the bare loop, at the batch size of the recipe.

    Args:
        min_seconds: CPU seconds to spend at least.
        overrides: KEY=VALUE changes of the recipe.

    Returns:
        One entry of the results.
    """
    config = load_recipe(*overrides)
    with tempfile.TemporaryDirectory() as folder:
        steps = {"dsdiff": build_dsdiff_step(config, Path(folder) / "run"), "bare": build_bare_step(config)}
        times = time_in_turns(steps, min_seconds, 4)
    return {
        "parameters": count_parameters(config),
        "seconds": round(statistics.median(times["dsdiff"]), 4),
        "ratios": {"bare loop": time_ratio(times, "dsdiff", "bare")},
    }


def measure_monai(min_seconds: float, batch_override: str) -> dict[str, dict[str, Any]]:
    """Compare training steps of dsdiff with those of MONAI.

    Args:
        min_seconds: CPU seconds to spend at least.
        batch_override: Sets the batch size of all loops.

    Returns:
        One entry of the results for each loop.
    """
    fp32 = "training.precision=fp32"
    no_stem = ("backbone.params.stem=1", "backbone.params.attention_resolutions=[8]")
    configs = {
        "dsdiff": load_recipe(batch_override),
        "dsdiff fp32": load_recipe(batch_override, fp32),
        "dsdiff fp32, no stem": load_recipe(batch_override, fp32, *no_stem),
    }
    monai_step, n_monai_parameters = build_monai_step(configs["dsdiff"])
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: build_dsdiff_step(config, Path(folder) / name) for name, config in configs.items()}
        times = time_in_turns({**steps, "MONAI fp32": monai_step}, min_seconds, 2)

    n_parameters = {name: count_parameters(config) for name, config in configs.items()}
    n_parameters["MONAI fp32"] = n_monai_parameters
    return {
        name: {
            "parameters": n_parameters[name],
            "seconds": round(statistics.median(seconds), 4),
            "ratios": {} if name == "MONAI fp32" else {"MONAI": time_ratio(times, name, "MONAI fp32")},
            "speedup over MONAI": time_ratio(times, "MONAI fp32", name),
        }
        for name, seconds in times.items()
    }


def count_parameters(config: RunConfig) -> int:
    """Count the parameters of a config's network.

    Args:
        config: The config.

    Returns:
        Number of parameters.
    """
    return sum(p.numel() for p in config.meta_network().parameters())


def main() -> None:
    """Run the benchmark."""
    parser = create_parser(__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "training.json", help="JSON file of the results")
    parser.add_argument("--picture", type=Path, default=FIGURES / "training.png", help="PNG file to plot")
    parser.add_argument("--minutes", type=float, default=4.0, help="CPU minutes of the comparisons")
    parser.add_argument("--quick", action="store_true", help="smoke test")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    seconds = 0.0 if args.quick else 60 * args.minutes
    batch_override = "training.batch_size=2" if args.quick else "training.batch_size=4"
    bare_overrides = (batch_override,) if args.quick else ()

    loops = {"dsdiff train step": measure_bare_loop(BARE_LOOP_FRACTION * seconds, bare_overrides)}
    loops |= measure_monai(MONAI_FRACTION * seconds, batch_override)
    recipe = load_recipe(batch_override)
    results: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "precision of dsdiff": resolve_precision(CPU),
        "batch": {
            "bare loop": load_recipe(*bare_overrides).training.batch_size,
            "MONAI": recipe.training.batch_size,
        },
        "crop": list(recipe.data.crop),
        "loops": loops,
        "growth": measure_growth(args.quick),
    }
    write_results(results, args.out)
    plot_growth(results["growth"], args.picture)
    print(render_tables(results))


if __name__ == "__main__":
    main()
