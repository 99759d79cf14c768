"""Measure whether training waits for its batches, and the memory that a cohort needs.

python scripts/benchmarks/loader.py STORE [--out runs/loader] [--only waiting growth] [--gpu]

Waiting: a stand-in for the network computes for 10 ms of CPU time per step, while worker processes prepare the next
batches from STORE (prepared patients of full size, with the data block and the augmentation of bridge-small). It
computes instead of sleeping, so that other load on the machine slows network and workers alike; it occupies one core.
With --gpu it sleeps, like a CPU whose GPU computes.

Growth: stores of 20 to 1251 simulated patients in small boxes (smooth noise in an ellipsoid; 16 patients and their
copies) in a temporary folder. Measures the size of the store, the seconds to open it, and the memory of the training
process and of two workers after 100 batches; and the same for patients in memory. Writes JSON and PNG files to --out.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmark_files import create_parser, write_results
from loader_growth import measure_growth, plot_growth

from dsdiff.config.run import load_config
from dsdiff.data.assemble_cohort import assemble_cohort
from dsdiff.data.dataloader import TrainingBatches, prefetch_batches
from dsdiff.data.settings import DataConfig

NETWORK_SECONDS = 0.010  # per step
WARMUP_STEPS = 10


@dataclass(frozen=True)
class WaitingSetup:
    """How to measure the waiting time.

    Attributes:
        data: The data block of the config.
        steps: Steps of each round.
        rounds: Number of rounds.
        run_network: Stands in for the network; gets its seconds.
    """

    data: DataConfig
    steps: int
    rounds: int
    run_network: Callable[[float], None]


def use_cpu(seconds: float) -> None:
    """Use CPU time.

    Args:
        seconds: CPU seconds.
    """
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def measure_waiting(setup: WaitingSetup, batch_size: int, workers: int) -> float:
    """Measure the fraction of the time in which the network waits for a batch, after ten steps of warm-up.

    Args:
        setup: Data, steps, rounds and network.
        batch_size: Slices per step.
        workers: Number of worker processes.

    Returns:
        Median fraction of all rounds, 0 to 1.
    """
    training_batches = TrainingBatches(setup.data, 1, batch_size, assemble_cohort(setup.data, "none").training)
    fractions = []
    for round_number in range(setup.rounds):
        first_step = round_number * 1000
        batches = prefetch_batches(training_batches, first_step, first_step + setup.steps + WARMUP_STEPS, workers)
        waited, round_start = 0.0, 0.0
        for step in range(setup.steps + WARMUP_STEPS):
            if step == WARMUP_STEPS:
                waited, round_start = 0.0, time.perf_counter()
            wait_start = time.perf_counter()
            next(batches)
            waited += time.perf_counter() - wait_start
            setup.run_network(NETWORK_SECONDS)
        fractions.append(waited / (time.perf_counter() - round_start))
    return float(np.median(fractions))


def measure_batch_cost(data: DataConfig, batch_size: int) -> float:
    """Measure the CPU time of one batch.

    Args:
        data: The data block of the config.
        batch_size: Slices per batch.

    Returns:
        CPU milliseconds in the fastest of three rounds of ten batches.
    """
    batches = TrainingBatches(data, 1, batch_size, assemble_cohort(data, "none").training)
    milliseconds = []
    for round_number in range(3):
        start = time.process_time()
        for step in range(10):
            batches.load_step(10 * round_number + step)
        milliseconds.append((time.process_time() - start) * 100)
    return min(milliseconds)


def run_waiting(setup: WaitingSetup, batch_sizes: list[int], worker_counts: list[int], out: Path) -> None:
    """Measure the waiting time for all batch sizes and numbers of workers, and print a Markdown table.

    Args:
        setup: Data, steps, rounds and network.
        batch_sizes: Slices per step.
        worker_counts: Numbers of worker processes.
        out: Folder of the results.
    """
    batch_ms = {size: measure_batch_cost(setup.data, size) for size in batch_sizes}
    fractions: dict[int, dict[int, float]] = {}
    for size in batch_sizes:
        fractions[size] = {workers: measure_waiting(setup, size, workers) for workers in worker_counts}
    results = {"load": os.getloadavg(), "cores": os.cpu_count(), "CPU ms per batch": batch_ms, "waiting": fractions}
    write_results(results, out / "waiting.json")

    print(f"| slices per step | CPU ms per batch | {' | '.join(f'{n} workers' for n in worker_counts)} |")
    print("|---" * (2 + len(worker_counts)) + "|")
    for size, row in fractions.items():
        cells = [f"{fraction:.1%}" for fraction in row.values()]
        print(f"| {size} | {batch_ms[size]:.1f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = create_parser(__doc__)
    parser.add_argument("store", type=Path, help="prepared store (dsdiff prepare)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 6], help="slices per step")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of worker processes")
    parser.add_argument("--steps", type=int, default=100, help="steps of each round")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--only", choices=("waiting", "growth"), help="run only one part")
    parser.add_argument("--gpu", action="store_true", help="the stand-in sleeps, as if a GPU computed")
    parser.add_argument("--out", type=Path, default=Path("runs/loader"), help="folder of the results")
    args = parser.parse_args()

    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.only != "growth":
        data = load_config("bridge-small").data.model_copy(update={"root": args.store, "target_style": "own"})
        run_network = time.sleep if args.gpu else use_cpu
        run_waiting(WaitingSetup(data, args.steps, args.rounds, run_network), args.sizes, args.workers, args.out)
    if args.only != "waiting":
        rows = measure_growth()
        write_results(rows, args.out / "growth.json")
        plot_growth(rows, args.out / "growth.png")


if __name__ == "__main__":
    main()
