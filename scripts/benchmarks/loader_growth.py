"""Size, opening time and memory of training cohorts of growing size. See loader.py."""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from dsdiff.data import build_store, store
from dsdiff.data.assemble_cohort import assemble_cohort
from dsdiff.data.dataloader import TrainingBatches, prefetch_batches
from dsdiff.data.dataset import InMemorySlices, TrainingPatient
from dsdiff.data.hdf5_slices import write_case
from dsdiff.data.preparation import CroppedCase
from dsdiff.data.settings import DataConfig
from dsdiff.data.store import StoreRecord, StoreSettings
from dsdiff.io.cases import file_hash
from dsdiff.preprocessing.geometry import IntensityScale
from dsdiff.reporting import figures
from dsdiff.style.regression import KNOTS

SETTINGS = StoreSettings()
BOX_SHAPE = (24, 48, 56)  # z, x, y
COHORT_SIZES = (20, 80, 320, 1251)
N_SIMULATED = 16  # all other patients are copies
N_MEMORY_BATCHES = 100


def simulate_patient(seed: int) -> CroppedCase:
    """Simulate a patient in a small box: smooth noise in an ellipsoid, with an enhancing ball.

    Args:
        seed: Seed of the noise.

    Returns:
        The patient.
    """
    rng = np.random.default_rng(seed)
    z, x, y = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in BOX_SHAPE), indexing="ij")
    brain = z**2 + x**2 + y**2 < 1
    ball = (z**2 + (x - 0.3) ** 2 + y**2 < 0.04) & brain
    images = {}
    for name in (*SETTINGS.contrasts, SETTINGS.target):
        smooth_noise = ndimage.gaussian_filter(rng.standard_normal(BOX_SHAPE, np.float32), 1.0)
        image = smooth_noise / smooth_noise.std() + 3 * ball * (name == SETTINGS.target)
        images[name] = np.where(brain, image, 0).astype(np.float16)
    region = brain + 2 * ball.astype(np.uint8)
    return CroppedCase(images, region, dict.fromkeys(images, IntensityScale(0, 1)), (1.0, 1.0, 1.0), ())


def write_patient(root: Path, seed: int) -> StoreRecord:
    """Simulate a patient and write it into a store.

    Args:
        root: Folder of the store.
        seed: Seed of the patient.

    Returns:
        The record for the list of the store.
    """
    case, file = simulate_patient(seed), store.case_path(root, patient_name(seed))
    write_case(case, file)
    images = np.stack([case.images[name] for name in (*SETTINGS.contrasts, SETTINGS.target)])
    style_equations = {}
    for kind in KNOTS:
        regression = InMemorySlices(images, case.region).fit_style(kind)
        style_equations[kind] = {"gram": regression.gram.tolist(), "moment": regression.moment.tolist()}
    return StoreRecord(
        name=file.stem,
        max_region_digits={"axial": "".join(map(str, case.region.max((1, 2))))},
        absent=(),
        scales={name: (scale.center, scale.width) for name, scale in case.scales.items()},
        spacing=case.spacing,
        warnings=(),
        input_hashes={},
        sha256=file_hash(file),
        size=file.stat().st_size,
        style_equations=style_equations,
        features={},
    )


def patient_name(number: int) -> str:
    """Name a simulated patient.

    Args:
        number: Number of the patient.

    Returns:
        The name.
    """
    return f"simulated-{number:04d}"


def grow_store(root: Path, first: int, last: int) -> None:
    """Add patients to a store: the first `N_SIMULATED` are simulated, the others are copies of them.

    Args:
        root: Folder of the store.
        first: Number of the first patient to add.
        last: Number after the last patient to add.
    """
    records, _ = store.read_records(root)
    with (root / store.RECORDS_NAME).open("a", encoding="utf-8") as file:
        for number in range(first, last):
            if number < N_SIMULATED:
                record = records[patient_name(number)] = write_patient(root, number)
            else:
                original = patient_name(number % N_SIMULATED)
                record = replace(records[original], name=patient_name(number))
                shutil.copyfile(store.case_path(root, original), store.case_path(root, record.name))
            file.write(record.to_json_line())


def resident_memory(pid: int) -> tuple[float, float]:
    """Read the memory of a process.

    Args:
        pid: Process id.

    Returns:
        MB of the process, and MB that it shares with no other process.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    megabytes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return megabytes["Rss"], megabytes["Private_Clean"] + megabytes["Private_Dirty"]


def measure_memory(root: Path, in_memory: bool, queue: multiprocessing.Queue) -> None:
    """Measure opening a store and reading batches; runs in its own process.

    Args:
        root: Folder of the store.
        in_memory: Load all patients into memory first.
        queue: Gets the seconds to open, the MB that this process gained, and the largest private MB of a worker.
    """
    torch.set_num_threads(1)
    data = DataConfig(root=root, crop=(48, 48), target_style="average")
    start_mb, _ = resident_memory(os.getpid())
    start = time.perf_counter()
    patients: Sequence[TrainingPatient] = assemble_cohort(data, "none").training
    open_seconds = time.perf_counter() - start
    if in_memory:
        patients = [load_into_memory(patient) for patient in patients]

    batches = prefetch_batches(TrainingBatches(data, 1, 4, patients), 0, N_MEMORY_BATCHES + 20, 2)
    for _ in range(N_MEMORY_BATCHES):
        next(batches)
    worker_mb = [resident_memory(child.pid)[1] for child in multiprocessing.active_children() if child.pid]
    queue.put((open_seconds, resident_memory(os.getpid())[0] - start_mb, max(worker_mb)))


def load_into_memory(patient: TrainingPatient) -> TrainingPatient:
    """Load all slices of a patient.

    Args:
        patient: A patient of a store.

    Returns:
        The same patient in memory.
    """
    return TrainingPatient.from_slices(patient.name, InMemorySlices(*patient.slices.load_all()))


def measure_growth() -> list[dict[str, float]]:
    """Measure size, time and memory for cohorts of growing size.

    Returns:
        One row for each size.
    """
    root = Path(tempfile.mkdtemp()) / "store"
    build_store.init_store(root, SETTINGS)
    context = multiprocessing.get_context("spawn")
    rows = []
    n_written = 0
    for n_cases in COHORT_SIZES:
        grow_store(root, n_written, n_cases)
        n_written = n_cases
        store_bytes = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        row: dict[str, float] = {"cases": n_cases, "store MB": store_bytes / 1e6}
        for kind in ("store", "memory"):
            queue = context.Queue()
            process = context.Process(target=measure_memory, args=(root, kind == "memory", queue))
            process.start()
            open_seconds, added_mb, worker_mb = queue.get()
            process.join()
            row |= {f"{kind}: MB added": added_mb, f"{kind}: MB per worker": worker_mb}
            if kind == "store":
                row["s to open"] = open_seconds
        rows.append(row)
        print({name: round(value, 3) for name, value in row.items()}, flush=True)
    shutil.rmtree(root.parent)
    return rows


def plot_growth(rows: list[dict[str, float]], path: Path) -> None:
    """Plot size and memory against the number of patients.

    Args:
        rows: Output of `measure_growth`.
        path: PNG file to write.
    """
    figure = figures.new_figure(9.0, 3.2, figures.LIGHT_BACKGROUND, 110, "constrained")
    size_axis, memory_axis = figure.subplots(1, 2)
    n_cases = [row["cases"] for row in rows]
    size_axis.plot(n_cases, [row["store MB"] for row in rows], "o-")
    size_axis.set(title="Size of the store (small boxes)", xlabel="patients", ylabel="MB", ylim=(0, None))

    for kind, color in (("store", "C0"), ("memory", "C1")):
        added_mb = [row[f"{kind}: MB added"] for row in rows]
        worker_mb = [row[f"{kind}: MB per worker"] for row in rows]
        memory_axis.plot(n_cases, added_mb, "o-", color=color, label=f"{kind}: training process")
        memory_axis.plot(n_cases, worker_mb, "s--", color=color, label=f"{kind}: private memory of a worker")
    memory_axis.set(title="Memory after 100 batches", xlabel="patients", ylabel="MB", ylim=(0, None))
    memory_axis.legend(fontsize=7, frameon=False)
    figures.save_png(figure, path)
