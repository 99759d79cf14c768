"""Show where `dsdiff synth` spends its time: stage by stage, and by kind of operation inside the network.

python scripts/benchmarks/stages.py [CASE] [--model default] [--threads 2]
    [--out scripts/benchmarks/results/stages.json]

CASE is the folder of one patient (default: the bundled phantom). `dsdiff synth` reads, computes and writes the cases of
a folder in parallel; here the stages run one after another. Operations are those of one batch of slices on one thread,
in the fastest of eight runs; shares are of the time inside operations. Prints Markdown.
"""

import time

PROCESS_START = time.perf_counter(), time.process_time()

import tempfile
from dataclasses import replace
from datetime import date
from importlib.resources import files
from pathlib import Path

import torch

TORCH_IMPORTED = time.perf_counter(), time.process_time()

from benchmark_files import RESULTS, create_parser, write_results
from torch.profiler import ProfilerActivity, profile

from dsdiff.inference import outputs, parallel
from dsdiff.inference.denoise import sample_slices
from dsdiff.inference.model import Model, load_model
from dsdiff.inference.options import SamplingPlan
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io.cases import discover_cases, file_hash, load_volumes
from dsdiff.preprocessing import normalize, slices
from dsdiff.preprocessing.normalize import PreprocessedCase
from dsdiff.system.device import peak_memory, set_threads

CPU = torch.device("cpu")
PROFILED_RUNS = 8
OPERATION_KINDS = {
    "convolution": ("mkldnn_convolution",),
    "group norm": ("native_group_norm",),
    "SiLU": ("silu",),
    "attention and linear": ("addmm", "bmm", "mm", "_softmax", "_scaled_dot_product_flash_attention_for_cpu"),
    "copies, concatenation": ("copy_", "cat", "pixel_unshuffle", "pixel_shuffle", "upsample_nearest2d"),
    "additions, products": ("add", "mul", "div", "add_", "mul_"),
}


class StageTimer:
    """Wall-clock seconds, CPU seconds and peak memory of consecutive stages."""

    def __init__(self) -> None:
        self.stages: list[dict] = []
        self.stage_start = PROCESS_START

    def end_stage(self, name: str, end: tuple[float, float] | None = None) -> None:
        """Record the stage that ends now. The next stage starts.

        Args:
            name: Title of the stage.
            end: Wall-clock and CPU seconds at its end; None takes the current ones.
        """
        wall, cpu = end or (time.perf_counter(), time.process_time())
        start_wall, start_cpu = self.stage_start
        stage = {"stage": name, "wall": wall - start_wall, "cpu": cpu - start_cpu, "peak_gb": peak_memory(CPU) / 1e9}
        self.stages.append(stage)
        self.stage_start = end or (time.perf_counter(), time.process_time())


def profile_operations(model: Model, case: PreprocessedCase) -> dict[str, float]:
    """Measure the time of each kind of operation in one batch of a common shape.

    Args:
        model: The model.
        case: The case.

    Returns:
        Kind -> milliseconds on one thread.
    """
    context_slices = model.config.data.context_slices
    batch_size = model.engine.batch_size
    batches = list(slices.make_batches(case, model.contrasts, context_slices, model.multiple, batch_size))
    batch = batches[len(batches) // 3]

    fastest: dict[str, float] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(PROFILED_RUNS):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            sample_slices(model, batch, SamplingPlan(1))
        times = {event.key.removeprefix("aten::"): event.self_cpu_time_total / 1e3 for event in profiler.key_averages()}
        kinds = {kind: sum(times.get(name, 0) for name in names) for kind, names in OPERATION_KINDS.items()}
        kinds["other"] = sum(times.values()) - sum(kinds.values())
        if not fastest or sum(kinds.values()) < sum(fastest.values()):
            fastest = kinds
    torch.set_num_threads(threads)
    return fastest


def print_tables(stages: list[dict], operations_ms: dict[str, float]) -> None:
    """Print stages and operations as Markdown.

    Args:
        stages: One dictionary for each stage.
        operations_ms: Kind of operation -> milliseconds.
    """
    print("| stage | s (wall) | s (CPU) | peak GB |\n|---|---|---|---|")
    for stage in stages:
        print(f"| {stage['stage']} | {stage['wall']:.2f} | {stage['cpu']:.2f} | {stage['peak_gb']:.2f} |")
    wall, cpu = (sum(stage[clock] for stage in stages) for clock in ("wall", "cpu"))
    print(f"| total | {wall:.2f} | {cpu:.2f} | |\n")

    print("| operations of the network | ms | share |\n|---|---|---|")
    total_ms = sum(operations_ms.values())
    for kind, milliseconds in sorted(operations_ms.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {milliseconds:.1f} | {milliseconds / total_ms:.0%} |")


def main() -> None:
    """Run the benchmark."""
    parser = create_parser(__doc__)
    phantom = files("dsdiff").joinpath("assets", "phantom")
    parser.add_argument("case", type=Path, nargs="?", default=phantom, help="folder of one patient")
    parser.add_argument("--model", default="default", help="name or folder of a model")
    parser.add_argument("--threads", type=int, help="number of threads; default: all cores")
    parser.add_argument("--out", type=Path, default=RESULTS / "stages.json", help="JSON file of the results")
    args = parser.parse_args()

    timer = StageTimer()
    timer.end_stage("import torch", TORCH_IMPORTED)
    timer.end_stage("import dsdiff and other packages")

    set_threads(args.threads, parallel.benchmark_thread_count)
    timer.end_stage("measure threads")

    model = load_model(args.model, CPU)
    label = model.engine.label
    timer.end_stage("load the model")

    (case,) = discover_cases(Path(str(args.case)))
    contrasts = model.contrasts_to_read(case.files)
    hashes = {name: file_hash(case.files[name]) for name in contrasts}
    volumes = load_volumes(case, contrasts)
    timer.end_stage("read")

    loaded = normalize.preprocess(volumes, model.config.data.source_contrast)
    loaded = replace(loaded, geometry=replace(loaded.geometry, hashes=hashes))
    timer.end_stage("preprocess")

    result = Pipeline(model).synthesize_loaded(loaded)
    timer.end_stage("network")

    with tempfile.TemporaryDirectory() as out:
        outputs.write_case(result, case, Path(out), model)
        timer.end_stage("write: T1ce, preview, provenance")

    operations_ms = profile_operations(model, loaded.case)
    threads = torch.get_num_threads()
    metadata = {"case": case.name, "engine": label, "threads": threads, "date": str(date.today())}
    write_results(metadata | {"stages": timer.stages, "operations_ms": operations_ms}, args.out)
    print(f"{label}, {threads} threads\n")
    print_tables(timer.stages, operations_ms)


if __name__ == "__main__":
    main()
