"""HDF5 or zarr: random slices of prepared patients, read by several processes. python benchmarks/store.py COHORT

Writes the same patients (float16, a chunk per contrast and slice, shuffled, deflated or Zstandard, checksummed) as an
HDF5 file per case and as a zarr 3 group per case with one shard per contrast, and reads slabs as training does: three
slices of every source, one of the target and of the region. Opened anew for every slab, and kept open. Processes take
turns with the formats, so that what else the machine does falls on all alike. Needs pip install zarr.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

NAMES = ("t1", "t2", "flair", "t1ce", "region")
SOURCES, TARGET = NAMES[:3], NAMES[3]


def write_hdf5(arrays: dict[str, np.ndarray], path: Path) -> None:
    """One file, a dataset for each contrast."""
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, array in arrays.items():
            file.create_dataset(
                name, data=array, chunks=(1, *array.shape[1:]), compression="gzip", compression_opts=1,
                shuffle=True, fletcher32=True,
            )  # fmt: skip


def write_zarr(arrays: dict[str, np.ndarray], path: Path) -> None:
    """One group, an array of one shard for each contrast."""
    group = zarr.open_group(path.with_suffix(".zarr"), mode="w")
    for name, array in arrays.items():
        codec = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=array.itemsize)
        made = group.create_array(
            name, shape=array.shape, dtype=array.dtype, shards=array.shape, chunks=(1, *array.shape[1:]),
            compressors=[codec, Crc32cCodec()],
        )  # fmt: skip
        made[:] = array


def slab(opened: h5py.File | zarr.Group, z: int) -> int:
    """Read what training reads of a slice; the bytes of it."""
    parts = [opened[name][z - 1 : z + 2] for name in SOURCES] + [opened[name][z] for name in (TARGET, "region")]
    return sum(part.nbytes for part in parts)


def hdf5_anew(path: Path, z: int) -> int:
    with h5py.File(path.with_suffix(".h5"), "r") as file:
        return slab(file, z)


def zarr_anew(path: Path, z: int) -> int:
    return slab(zarr.open_group(path.with_suffix(".zarr"), mode="r"), z)


@lru_cache(maxsize=4096)
def opened_hdf5(path: Path) -> h5py.File:
    return h5py.File(path.with_suffix(".h5"), "r")


@lru_cache(maxsize=4096)
def opened_zarr(path: Path) -> dict[str, zarr.Array]:
    group = zarr.open_group(path.with_suffix(".zarr"), mode="r")
    return {name: group[name] for name in NAMES}


READERS: dict[str, Callable[[Path, int], int]] = {
    "HDF5, opened for each slab": hdf5_anew,
    "HDF5, kept open": lambda path, z: slab(opened_hdf5(path), z),
    "zarr 3, opened for each slab": zarr_anew,
    "zarr 3, kept open": lambda path, z: slab(opened_zarr(path), z),
}


def job(reader: str, paths: list[Path], depths: list[int], seed: int, slabs: int, queue: multiprocessing.Queue) -> None:
    """One process: the CPU seconds and the seconds of its slabs, after a round that fills caches."""
    rng, read = np.random.default_rng(seed), READERS[reader]
    for one, depth in zip(paths, depths, strict=True):
        read(one, depth // 2)
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(slabs):
        which = int(rng.integers(len(paths)))
        read(paths[which], int(rng.integers(1, depths[which] - 1)))
    queue.put((time.process_time() - cpu, time.perf_counter() - clock))


def measured(reader: str, paths: list[Path], depths: list[int], processes: int, slabs: int) -> tuple[float, float]:
    """CPU ms of a slab, and slabs per second of all processes together."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    started = [
        context.Process(target=job, args=(reader, paths, depths, seed, slabs, queue)) for seed in range(processes)
    ]
    for one in started:
        one.start()
    spent = [queue.get() for _ in started]
    for one in started:
        one.join()
    return 1e3 * sum(cpu for cpu, _ in spent) / (slabs * processes), slabs * processes / max(
        clock for _, clock in spent
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--patients", type=int, default=16)
    parser.add_argument("--slabs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/store.json"))
    args = parser.parse_args()
    from dsdiff.data import dataset  # not above: the readers' processes would import torch
    from dsdiff.io import cases

    place = Path(tempfile.mkdtemp())
    paths, depths, seconds = [], [], {"HDF5": 0.0, "zarr 3": 0.0}
    for case in cases.discover(args.cohort)[: args.patients]:
        images, region = dataset.load(case, SOURCES, TARGET).slices.whole()
        arrays = dict(zip(NAMES, (*images, region), strict=True))
        for name, write in (("HDF5", write_hdf5), ("zarr 3", write_zarr)):
            since = time.process_time()
            write(arrays, place / case.name)
            seconds[name] += time.process_time() - since
        paths.append(place / case.name)
        depths.append(len(region))
    files = [path for path in place.rglob("*") if path.is_file()]
    kept = {"HDF5": [path for path in files if path.suffix == ".h5"]}
    kept["zarr 3"] = [path for path in files if path not in kept["HDF5"]]
    facts: dict[str, dict] = {
        name: {
            "MB a patient": sum(path.stat().st_size for path in found) / 1e6 / len(paths),
            "files a patient": len(found) / len(paths),
            "CPU s to write a patient": seconds[name] / len(paths),
        }
        for name, found in kept.items()
    }
    spent: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(args.rounds):
        for processes in args.processes:
            for reader in READERS:
                one = measured(reader, paths, depths, processes, args.slabs)
                spent.setdefault((reader, processes), []).append(one)
    reads = {
        reader: {
            str(processes): {
                "CPU ms a slab": statistics.median(cpu for cpu, _ in spent[reader, processes]),
                "slabs/s": statistics.median(rate for _, rate in spent[reader, processes]),
            }
            for processes in args.processes
        }
        for reader in READERS
    }
    shutil.rmtree(place)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps({"patients": len(paths), "stored": facts, "reads": reads}, indent=1) + "\n", encoding="utf-8"
    )
    print(f"| {len(paths)} patients | {' | '.join(facts['HDF5'])} |\n|---|---|---|---|")
    for name, one in facts.items():
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in one.values())} |")
    head = [f"{n} process{'es' * (n > 1)}" for n in args.processes]
    print(f"\n| CPU ms a slab; slabs/s | {' | '.join(head)} |\n{'|---' * (len(head) + 1)}|")
    for reader, one in reads.items():
        cells = [f"{found['CPU ms a slab']:.2f}; {found['slabs/s']:.0f}" for found in one.values()]
        print(f"| {reader} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
