"""Does training wait for its batches, and what does a cohort cost? python benchmarks/loader.py STORE --out OUT

Waiting: a stand-in for a network computes for 10 ms of CPU time a step, while worker processes make the next batches
from STORE (prepared patients of full size, the data block of bridge-small with its augmentation). It computes rather
than sleeps, so that whatever else the machine does slows network and workers alike; it takes one core for itself. With
--gpu it sleeps, as a CPU may whose GPU computes.

Growth: stores of simulated patients in small boxes (sparse: smooth noise in an ellipsoid; 16 of them, and copies by
other names) of 20 to 1251 cases, in a temporary folder: bytes of the store, seconds to open it, and memory of the
training process and of two workers after 100 batches, beside patients that are read into memory. OUT gets the numbers
as JSON and the curves as PNG.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from scipy import ndimage

from dsdiff.config import run as configs
from dsdiff.data import build_store, dataloader, store
from dsdiff.data.dataloader import Batches, prefetched
from dsdiff.data.dataset import Boxed, InMemory, Patient
from dsdiff.data.settings import DataConfig
from dsdiff.data.store import Entry, Settings
from dsdiff.io import cases
from dsdiff.preprocessing.normalize import Scale
from dsdiff.style.regression import KNOTS

NETWORK = 0.010  # seconds of a step
SETTINGS, SHAPE = Settings(), (24, 48, 56)
CASES, ORIGINALS = (20, 80, 320, 1251), 16


def computed(seconds: float) -> None:
    """Use up CPU time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def waiting(
    data: DataConfig, size: int, workers: int, steps: int, rounds: int, network: Callable[[float], None]
) -> float:
    """The share of a run in which the network waits for a batch, its first ten steps left out; the median round's."""
    drawn, shares = Batches(data, 1, size, dataloader.gather(data, "none", Console(quiet=True)).training), []
    for number in range(rounds):
        batches = prefetched(drawn, number * 1000, number * 1000 + steps + 10, workers)
        waited, began = 0.0, 0.0
        for step in range(steps + 10):
            if step == 10:
                waited, began = 0.0, time.perf_counter()
            since = time.perf_counter()
            next(batches)
            waited += time.perf_counter() - since
            network(NETWORK)
        shares.append(waited / (time.perf_counter() - began))
    return float(np.median(shares))


def cost(data: DataConfig, size: int) -> float:
    """CPU ms of one batch: the fastest of three rounds of ten."""
    drawn, spent = Batches(data, 1, size, dataloader.gather(data, "none", Console(quiet=True)).training), []
    for number in range(3):
        since = time.process_time()
        for step in range(10):
            drawn.at(10 * number + step)
        spent.append((time.process_time() - since) * 100)
    return min(spent)


def simulated(seed: int) -> Boxed:
    """A patient in a small box: smooth noise in an ellipsoid, with a ball that enhances."""
    rng = np.random.default_rng(seed)
    z, x, y = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE), indexing="ij")
    brain = z**2 + x**2 + y**2 < 1
    ball = (z**2 + (x - 0.3) ** 2 + y**2 < 0.04) & brain
    images = {}
    for name in (*SETTINGS.contrasts, SETTINGS.target):
        smooth = ndimage.gaussian_filter(rng.standard_normal(SHAPE, np.float32), 1.0)
        image = smooth / smooth.std() + 3 * ball * (name == SETTINGS.target)
        images[name] = np.where(brain, image, 0).astype(np.float16)
    return Boxed(images, brain + 2 * ball.astype(np.uint8), dict.fromkeys(images, Scale(0, 1)), (1.0, 1.0, 1.0), ())


def written(root: Path, seed: int) -> Entry:
    """Put a simulated patient into a store."""
    case, file = simulated(seed), store.case_file(root, f"simulated-{seed:04d}")
    store.write_case(case, file)
    images = np.stack([case.images[name] for name in (*SETTINGS.contrasts, SETTINGS.target)])
    own = {kind: InMemory(images, case.region).style(kind) for kind in KNOTS}
    styles = {kind: {"gram": one.gram.tolist(), "moment": one.moment.tolist()} for kind, one in own.items()}
    scales = {name: (scale.centre, scale.width) for name, scale in case.scales.items()}
    return Entry(
        file.stem, {"axial": "".join(map(str, case.region.max((1, 2))))}, (), scales, case.spacing, (), {},
        cases.file_hash(file), file.stat().st_size, styles, {},
    )  # fmt: skip


def grown(root: Path, first: int, last: int) -> None:
    """Add patients to a store: `ORIGINALS` of them simulated, the others copies by other names."""
    known, _ = store.read_list(root)
    with (root / store.LIST).open("a", encoding="utf-8") as listed:
        for seed in range(first, last):
            if seed < ORIGINALS:
                entry = known[f"simulated-{seed:04d}"] = written(root, seed)
            else:
                original = f"simulated-{seed % ORIGINALS:04d}"
                entry = replace(known[original], name=f"simulated-{seed:04d}")
                shutil.copyfile(store.case_file(root, original), store.case_file(root, entry.name))
            listed.write(entry.line)


def resident(pid: int) -> tuple[float, float]:
    """MB that a process holds, and MB of them that it shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    held = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return held["Rss"], held["Private_Clean"] + held["Private_Dirty"]


def memory(root: Path, in_memory: bool, queue: multiprocessing.Queue) -> None:
    """In a process of its own: seconds to open, MB of this process before and after, MB of its workers alone."""
    torch.set_num_threads(1)
    data = DataConfig(root=root, crop=(48, 48), target_style="average")
    before, since = resident(os.getpid())[0], time.perf_counter()
    patients = dataloader.gather(data, "none", Console(quiet=True)).training
    seconds = time.perf_counter() - since
    if in_memory:
        patients = [Patient.of(patient.name, InMemory(*patient.slices.whole())) for patient in patients]
    batches = prefetched(Batches(data, 1, 4, patients), 0, 120, 2)
    for _ in range(100):
        next(batches)
    workers = [resident(child.pid)[1] for child in multiprocessing.active_children() if child.pid]
    queue.put((seconds, resident(os.getpid())[0] - before, max(workers)))


def growth() -> list[dict[str, float]]:
    """The curves: a row for every number of cases."""
    root, rows, there = Path(tempfile.mkdtemp()) / "store", [], 0
    build_store.claim(root, SETTINGS)
    context = multiprocessing.get_context("spawn")
    for n in CASES:
        grown(root, there, n)
        there = n
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        row: dict[str, float] = {"cases": n, "store MB": size / 1e6}
        for kind in ("store", "memory"):
            queue = context.Queue()
            process = context.Process(target=memory, args=(root, kind == "memory", queue))
            process.start()
            seconds, added, worker = queue.get()
            process.join()
            row |= {f"{kind}: MB added": added, f"{kind}: MB a worker": worker}
            if kind == "store":
                row["s to open"] = seconds
        rows.append(row)
        print({name: round(value, 3) for name, value in row.items()}, flush=True)
    shutil.rmtree(root.parent)
    return rows


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """The curves as a picture."""
    figure = Figure((9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    cases = [row["cases"] for row in rows]
    left.plot(cases, [row["store MB"] for row in rows], "o-")
    left.set(title="Size of the store (small boxes)", xlabel="patients", ylabel="MB", ylim=(0, None))
    for kind, colour in (("store", "C0"), ("memory", "C1")):
        right.plot(
            cases, [row[f"{kind}: MB added"] for row in rows], "o-", color=colour, label=f"{kind}: training process"
        )
        right.plot(
            cases, [row[f"{kind}: MB a worker"] for row in rows], "s--", color=colour, label=f"{kind}: a worker's own"
        )
    right.set(title="Memory after 100 batches", xlabel="patients", ylabel="MB", ylim=(0, None))
    right.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 6])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("waiting", "growth"))
    parser.add_argument("--gpu", action="store_true", help="the stand-in sleeps: the CPU is free while a GPU computes")
    parser.add_argument("--out", type=Path, default=Path("runs/loader"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    network = time.sleep if args.gpu else computed
    args.out.mkdir(parents=True, exist_ok=True)
    plain = configs.load("bridge-small").data.model_copy(update={"root": args.store, "target_style": "own"})
    if args.only != "growth":
        costs = {size: cost(plain, size) for size in args.sizes}
        shares = {
            size: {n: waiting(plain, size, n, args.steps, args.rounds, network) for n in args.workers}
            for size in args.sizes
        }
        facts = {"load": os.getloadavg(), "cores": os.cpu_count(), "CPU ms a batch": costs, "waiting": shares}
        (args.out / "waiting.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(f"| slices a step | CPU ms a batch | {' | '.join(f'{n} workers' for n in args.workers)} |")
        print("|---" * (2 + len(args.workers)) + "|")
        for size, row in shares.items():
            cells = [f"{share:.1%}" for share in row.values()]
            print(f"| {size} | {costs[size]:.1f} | {' | '.join(cells)} |", flush=True)
    if args.only != "waiting":
        rows = growth()
        (args.out / "growth.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        draw(rows, args.out / "growth.png")


if __name__ == "__main__":
    main()
