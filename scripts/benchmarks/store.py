"""Compare HDF5 and zarr: several processes read random slices of prepared patients.

python scripts/benchmarks/store.py COHORT [--patients 16] [--stacks 300] [--rounds 3] [--out runs/store.json]

Writes the same patients (float16, one chunk per contrast and slice, shuffled, deflate or Zstandard, with checksums) as
one HDF5 file per case, and as one zarr 3 group per case with one shard per contrast. Then reads stacks of slices as
training does: three slices of every source, one of the target and of the region. Files are opened for each stack, or
stay open. Formats alternate, so that other load on the machine affects all of them. Needs pip install zarr.
"""

import multiprocessing
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_files import create_parser, write_results
from store_formats import NAMES, READERS, SOURCES, TARGET, WRITERS


@dataclass(frozen=True)
class Cohort:
    """The written cases.

    Attributes:
        paths: Path of each case, without suffix.
        depths: Number of slices of each case.
        write_seconds: Format -> CPU seconds to write all cases.
    """

    paths: list[Path]
    depths: list[int]
    write_seconds: dict[str, float]


def write_cohort(source: Path, n_patients: int, folder: Path) -> Cohort:
    """Write cases in both formats.

    Args:
        source: Folder of cases.
        n_patients: Number of cases.
        folder: Folder to write to.

    Returns:
        The written cases.
    """
    from dsdiff.data.preparation import load_patient  # here: the processes that read must not import torch
    from dsdiff.io.cases import discover_cases

    cohort = Cohort([], [], dict.fromkeys(WRITERS, 0.0))
    for case in discover_cases(source)[:n_patients]:
        images, region = load_patient(case, SOURCES, TARGET).slices.load_all()
        arrays = dict(zip(NAMES, (*images, region), strict=True))
        for name, write in WRITERS.items():
            start = time.process_time()
            write(arrays, folder / case.name)
            cohort.write_seconds[name] += time.process_time() - start
        cohort.paths.append(folder / case.name)
        cohort.depths.append(len(region))
    return cohort


def time_reads(reader: str, cohort: Cohort, seed: int, n_stacks: int, queue: multiprocessing.Queue) -> None:
    """Read random stacks in one process, after a round that fills caches.

    Args:
        reader: Name of the reader.
        cohort: The cases.
        seed: Seed of the random slices.
        n_stacks: Number of stacks.
        queue: Gets CPU seconds and wall-clock seconds.
    """
    rng, read = np.random.default_rng(seed), READERS[reader]
    for path, depth in zip(cohort.paths, cohort.depths, strict=True):
        read(path, depth // 2)

    cpu_start, wall_start = time.process_time(), time.perf_counter()
    for _ in range(n_stacks):
        index = int(rng.integers(len(cohort.paths)))
        read(cohort.paths[index], int(rng.integers(1, cohort.depths[index] - 1)))
    queue.put((time.process_time() - cpu_start, time.perf_counter() - wall_start))


def measure_reader(reader: str, cohort: Cohort, n_processes: int, n_stacks: int) -> tuple[float, float]:
    """Read random stacks in several processes at the same time.

    Args:
        reader: Name of the reader.
        cohort: The cases.
        n_processes: Number of processes.
        n_stacks: Number of stacks of each process.

    Returns:
        CPU milliseconds per stack, and stacks per second of all processes.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=time_reads, args=(reader, cohort, seed, n_stacks, queue)) for seed in range(n_processes)
    ]
    for process in processes:
        process.start()
    durations = [queue.get() for _ in processes]
    for process in processes:
        process.join()

    total_stacks = n_stacks * n_processes
    cpu_ms = 1e3 * sum(cpu for cpu, _ in durations) / total_stacks
    return cpu_ms, total_stacks / max(wall for _, wall in durations)


def summarize_files(folder: Path, cohort: Cohort) -> dict[str, dict[str, float]]:
    """Compute size and number of files, and the time to write them.

    Args:
        folder: Folder of the written cases.
        cohort: The cases.

    Returns:
        Format -> measurements per patient.
    """
    all_files = [path for path in folder.rglob("*") if path.is_file()]
    files_by_format = {
        "HDF5": [path for path in all_files if path.suffix == ".h5"],
        "zarr 3": [path for path in all_files if path.suffix != ".h5"],
    }
    n_patients = len(cohort.paths)
    return {
        name: {
            "MB per patient": sum(path.stat().st_size for path in files) / 1e6 / n_patients,
            "files per patient": len(files) / n_patients,
            "CPU s to write a patient": cohort.write_seconds[name] / n_patients,
        }
        for name, files in files_by_format.items()
    }


def measure_readers(
    cohort: Cohort, process_counts: list[int], rounds: int, n_stacks: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure all readers in turn.

    Args:
        cohort: The cases.
        process_counts: Numbers of processes.
        rounds: Number of rounds.
        n_stacks: Number of stacks of each process.

    Returns:
        Reader -> number of processes -> medians.
    """
    measurements: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for n_processes in process_counts:
            for reader in READERS:
                measurement = measure_reader(reader, cohort, n_processes, n_stacks)
                measurements.setdefault((reader, n_processes), []).append(measurement)

    reads: dict[str, dict[str, dict[str, float]]] = {reader: {} for reader in READERS}
    for (reader, n_processes), rows in measurements.items():
        reads[reader][str(n_processes)] = {
            "CPU ms per stack": statistics.median(cpu_ms for cpu_ms, _ in rows),
            "stacks/s": statistics.median(rate for _, rate in rows),
        }
    return reads


def print_tables(results: dict[str, Any], process_counts: list[int]) -> None:
    """Print the results as Markdown.

    Args:
        results: Patients, stored files and reads.
        process_counts: Numbers of processes.
    """
    stored = results["stored"]
    print(f"| {results['patients']} patients | {' | '.join(stored['HDF5'])} |\n|---|---|---|---|")
    for name, measurements in stored.items():
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in measurements.values())} |")

    titles = [f"{n} process{'es' * (n > 1)}" for n in process_counts]
    print(f"\n| CPU ms per stack; stacks/s | {' | '.join(titles)} |\n{'|---' * (len(titles) + 1)}|")
    for reader, by_count in results["reads"].items():
        cells = [f"{medians['CPU ms per stack']:.2f}; {medians['stacks/s']:.0f}" for medians in by_count.values()]
        print(f"| {reader} | {' | '.join(cells)} |")


def main() -> None:
    """Run the benchmark."""
    parser = create_parser(__doc__)
    parser.add_argument("cohort", type=Path, help="folder of cases with T1ce")
    parser.add_argument("--patients", type=int, default=16, help="number of patients")
    parser.add_argument("--stacks", type=int, default=300, help="number of stacks that each process reads")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    parser.add_argument("--out", type=Path, default=Path("runs/store.json"), help="JSON file of the results")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        cohort = write_cohort(args.cohort, args.patients, Path(folder))
        stored = summarize_files(Path(folder), cohort)
        reads = measure_readers(cohort, args.processes, args.rounds, args.stacks)
    results = {"patients": len(cohort.paths), "stored": stored, "reads": reads}
    write_results(results, args.out)
    print_tables(results, args.processes)


if __name__ == "__main__":
    main()
