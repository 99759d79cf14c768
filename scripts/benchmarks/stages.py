"""Where every second of `dsdiff synth` goes: its stages one after another, and the operations inside the network.

python benchmarks/stages.py [CASE] [--model default] [--threads 2] [--out benchmarks/results/stages.json]

CASE is a patient's folder (by default the bundled phantom). `dsdiff synth` overlaps reading, computing and writing over
the cases of a folder; here they run in turn. Operations are those of one batch of slices on one thread, the quickest of
eight runs; their share is of the time inside operations. Prints Markdown.
"""

import time

START = time.perf_counter(), time.process_time()

import argparse
import json
import tempfile
from dataclasses import replace
from datetime import date
from importlib.resources import files
from pathlib import Path

import torch

TORCH = time.perf_counter(), time.process_time()

from torch.profiler import ProfilerActivity, profile

from dsdiff.inference import model as models
from dsdiff.inference import outputs as case_io
from dsdiff.inference import parallel
from dsdiff.inference.denoise import predict
from dsdiff.inference.options import Sampling
from dsdiff.inference.pipeline import complete
from dsdiff.io import cases
from dsdiff.preprocessing import (
    normalize,
    slices,
)
from dsdiff.system import device as devices

CPU = torch.device("cpu")
KINDS = {
    "convolution": ("mkldnn_convolution",), "group norm": ("native_group_norm",), "SiLU": ("silu",),
    "attention and linear": ("addmm", "bmm", "mm", "_softmax", "_scaled_dot_product_flash_attention_for_cpu"),
    "copies, concatenation": ("copy_", "cat", "pixel_unshuffle", "pixel_shuffle", "upsample_nearest2d"),
    "additions, products": ("add", "mul", "div", "add_", "mul_"),
}  # fmt: skip


class Laps:
    """Stages with their wall and CPU seconds and the peak of memory in each."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.last = START

    def lap(self, name: str, now: tuple[float, float] | None = None) -> None:
        """A stage has ended."""
        now = now or (time.perf_counter(), time.process_time())
        peak = devices.peak_memory(CPU) / 1e9
        self.rows.append({"stage": name, "wall": now[0] - self.last[0], "cpu": now[1] - self.last[1], "peak_gb": peak})
        self.last = time.perf_counter(), time.process_time()


def operations(model: models.Model, prepared: normalize.Prepared) -> dict[str, float]:
    """Milliseconds of each kind of operation in a batch of the commonest shape."""
    found = list(
        slices.batches(prepared, model.contrasts, model.config.data.context_slices, model.multiple, model.engine.slices)
    )
    batch, best = found[len(found) // 3], {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(8):
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            predict(model, batch, Sampling(1))
        spent = {event.key.removeprefix("aten::"): event.self_cpu_time_total / 1e3 for event in profiled.key_averages()}
        kinds = {kind: sum(spent.get(name, 0) for name in names) for kind, names in KINDS.items()}
        kinds["everything else"] = sum(spent.values()) - sum(kinds.values())
        if not best or sum(kinds.values()) < sum(best.values()):
            best = kinds
    torch.set_num_threads(threads)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", type=Path, nargs="?", default=files("dsdiff").joinpath("assets", "phantom"))
    parser.add_argument("--model", default="default")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/stages.json"))
    args = parser.parse_args()
    laps = Laps()
    laps.lap("import torch", TORCH)
    laps.last = TORCH
    laps.lap("import dsdiff and the rest")
    devices.set_threads(args.threads, parallel.worthwhile)
    laps.lap("measure threads")
    model = models.load(args.model, CPU)
    says = model.engine.says
    laps.lap("load the model")
    (case,) = cases.discover(Path(str(args.case)))
    hashes = {name: cases.file_hash(case.files[name]) for name in model.wanted(case.files)}
    volumes = cases.load(case, model.wanted(case.files))
    laps.lap("read")
    prepared = replace(normalize.apply(volumes, model.config.data.source_contrast), hashes=hashes)
    laps.lap("preprocess")
    result = complete(prepared, model)
    laps.lap("network")
    with tempfile.TemporaryDirectory() as out:
        case_io.write(result, case, Path(out), model)
        laps.lap("write: T1ce, preview, provenance")
    kinds = operations(model, prepared)
    facts = {"case": case.name, "engine": says, "threads": torch.get_num_threads(), "date": str(date.today())}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps(facts | {"stages": laps.rows, "operations_ms": kinds}, indent=1) + "\n", encoding="utf-8"
    )
    print(f"{says}, {torch.get_num_threads()} side by side\n")
    print("| stage | s (wall) | s (CPU) | peak GB |\n|---|---|---|---|")
    for row in laps.rows:
        print(f"| {row['stage']} | {row['wall']:.2f} | {row['cpu']:.2f} | {row['peak_gb']:.2f} |")
    print(f"| together | {sum(r['wall'] for r in laps.rows):.2f} | {sum(r['cpu'] for r in laps.rows):.2f} | |\n")
    print("| inside the network | ms | share |\n|---|---|---|")
    for kind, spent in sorted(kinds.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {spent:.1f} | {spent / sum(kinds.values()):.0%} |")


if __name__ == "__main__":
    main()
