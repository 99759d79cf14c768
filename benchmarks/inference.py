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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dsdiff import config as configs
from dsdiff import device as devices
from dsdiff.benchmark import profile
from dsdiff.conditioning import condition
from dsdiff.data import cases, preprocess, slices
from dsdiff.data.preprocess import Prepared
from dsdiff.inference import preview, workers
from dsdiff.inference.model import Model
from dsdiff.inference.sampling import plan
from dsdiff.inference.synthesize import complete

CPU = torch.device("cpu")
BRIDGE, DDIM = Path("configs/bridge-small.yaml"), Path("configs/formulations/eps-formulation.yaml")
CHANNELS = 13  # x_t, three slices of three contrasts, three edge maps
TOLD = ("conditioning.structure=sobel", "conditioning.style=none")


@dataclass(frozen=True)
class Contender:
    """A way to compute a volume. piece: computes `share` of its work. gflops: of the whole volume."""

    name: str
    group: str
    piece: Callable[[], object]
    share: float
    gflops: float
    parameters: float


def ours(block: str, steps: int, engine: str) -> Model:
    """A model of the table's size with awake random weights: the recipe of the shipped one, or DDIM on eps."""
    recipe = BRIDGE if steps == 1 else DDIM
    config = configs.load(recipe, (f"backbone=configs/backbones/{block}-table.yaml", *TOLD))
    network = awake(config.build_network())
    return Model(block, "0", config, network, config.build_process(), config.build_sampler(), CPU, engine)


def awake(network: nn.Module) -> nn.Module:
    """Parameters that start at zero made small random ones: no kernel may profit from zeros."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network.eval()


def thinned(prepared: Prepared, count: int | None) -> Prepared:
    """The case with so many of its brain slices, evenly spaced; with all of them for None."""
    if count is None:
        return prepared
    held = np.flatnonzero(prepared.brain.any((0, 1)))
    kept = held[np.linspace(0, len(held) - 1, count + 2).round().astype(int)[1:-1]]
    brain = np.zeros_like(prepared.brain)
    brain[:, :, kept] = prepared.brain[:, :, kept]
    return replace(prepared, brain=brain)


def pixels(prepared: Prepared, model: Model) -> int:
    """Pixels that the network sees of a case at one step."""
    return sum(box.h * box.w for box in slices.boxes(prepared.brain, model.multiple))


def gflops(model: Model, h: int, w: int) -> float:
    """Floating-point operations of one slice at one step, in thousand millions."""
    return 2 * profile.count(model.config, h, w).macs / 1e9


def cropped(name: str, group: str, model: Model, prepared: Prepared, count: int | None, steps: int) -> Contender:
    """Ours, on the brain's boxes."""
    part = thinned(prepared, count)
    boxes = slices.boxes(prepared.brain, model.multiple)
    shapes = {(box.h, box.w) for box in boxes}
    each = {shape: gflops(model, *shape) for shape in shapes}
    work = steps * sum(each[box.h, box.w] for box in boxes)
    piece = partial(complete, part, model, plan(model, steps=steps))
    return Contender(name, group, piece, pixels(part, model) / pixels(prepared, model), work, size(model.network))


def size(network: nn.Module) -> float:
    """Parameters, in millions."""
    return sum(p.numel() for p in network.parameters()) / 1e6


def naive(name: str, group: str, model: Model, prepared: Prepared, count: int | None, steps: int) -> Contender:
    """The same network, run as it is written: float32, contiguous, every slice whole, batches of four."""
    x, y, z = preprocess.to_canonical(prepared.grid).shape
    chosen = batches_of(range(z) if count is None else np.linspace(0, z - 1, count).astype(int))
    padded = tuple(-(-side // model.multiple) * model.multiple for side in (x, y))
    stacked = slices.stack(prepared, model.contrasts)
    boxes = {index: whole_slice(prepared, index, *padded) for batch in chosen for index in batch}

    @torch.inference_mode()
    def piece() -> None:
        for batch in chosen:
            sources = torch.from_numpy(np.stack([stacked.take(boxes[i], 3) for i in batch]))
            x_t = sources[:, 0, 1, None]
            for _ in range(steps):
                cond = model.network.condition(sources, torch.ones(sources.shape[:2], dtype=torch.bool))
                x_t = x_t + model.network(x_t, torch.full((len(batch),), 1000.0), cond).value

    work = z * steps * gflops(model, *padded)
    return Contender(name, group, piece, sum(map(len, chosen)) / z, work, size(model.network))


def batches_of(numbers: object, most: int = 4) -> list[list[int]]:
    """Slices in batches of equal size, four where there are more."""
    every = [int(n) for n in numbers]  # type: ignore[attr-defined]
    return [every[start : start + most] for start in range(0, len(every), most)]


def whole_slice(prepared: Prepared, z: int, h: int, w: int) -> slices.Box:
    """The slice of a number of the whole volume, from its first corner on."""
    i, j, k = prepared.corner
    return slices.Box(z - k, -i, -j, h, w)


def conditions(prepared: Prepared, chosen: list[int]) -> Tensor:
    """What the peers concatenate to x_t: the same channels that our networks see."""
    stacked = slices.stack(prepared, ("t1", "t2", "flair"))
    h, w, _ = preprocess.to_canonical(prepared.grid).shape
    sources = torch.from_numpy(np.stack([stacked.take(whole_slice(prepared, z, h, w), 3) for z in chosen]))
    present = torch.ones(sources.shape[:2], dtype=torch.bool)
    return condition.build(condition.ConditioningConfig(structure="sobel"), sources, present).maps()


def monai(group: str, prepared: Prepared, count: int | None, steps: int) -> Contender:
    """MONAI's network, inferer and scheduler."""
    from monai.inferers import DiffusionInferer
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDIMScheduler

    network = DiffusionModelUNet(
        spatial_dims=2, in_channels=CHANNELS, out_channels=1, channels=(64, 128, 256), num_res_blocks=3,
        attention_levels=(False, False, False), num_head_channels=256,
    )  # fmt: skip
    awake(network)
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(num_inference_steps=steps)
    inferer = DiffusionInferer(scheduler)

    @torch.no_grad()
    def sample(given: Tensor) -> None:
        inferer.sample(
            torch.randn(len(given), 1, *given.shape[2:]), network, scheduler, conditioning=given, mode="concat",
            verbose=False,
        )  # fmt: skip

    return peer("MONAI", group, network, sample, prepared, count, steps)


def diffusers(group: str, prepared: Prepared, count: int | None, steps: int) -> Contender:
    """diffusers' network and scheduler, in the loop of its documentation."""
    from diffusers import DDIMScheduler, UNet2DModel

    network = UNet2DModel(
        sample_size=240, in_channels=CHANNELS, out_channels=1, layers_per_block=3, block_out_channels=(64, 128, 256),
        down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3, attention_head_dim=256,
    )  # fmt: skip
    awake(network)
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(steps)

    @torch.no_grad()
    def sample(given: Tensor) -> None:
        image = torch.randn(len(given), 1, *given.shape[2:])
        for t in scheduler.timesteps:
            predicted = network(torch.cat([image, given], 1), t).sample
            image = scheduler.step(predicted, t, image).prev_sample

    return peer("diffusers", group, network, sample, prepared, count, steps)


def peer(
    name: str,
    group: str,
    network: nn.Module,
    sample: Callable[[Tensor], None],
    prepared: Prepared,
    count: int | None,
    steps: int,
) -> Contender:
    """A peer on whole slices, in batches of four."""
    _, _, z = preprocess.to_canonical(prepared.grid).shape
    chosen = batches_of(range(z) if count is None else np.linspace(0, z - 1, count).astype(int))
    given = [conditions(prepared, batch) for batch in chosen]
    x_t = torch.randn(1, CHANNELS, *given[0].shape[2:])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(x_t, torch.tensor([1]))
    work = z * steps * counter.get_total_flops() / 1e9

    def piece() -> None:
        for one in given:
            sample(one)

    return Contender(name, group, piece, sum(map(len, chosen)) / z, work, size(network))


@dataclass
class Ceilings:
    """What the machine can do: GFLOP/s of a convolution and a matrix product, GB/s of a copy, on all threads."""

    conv_bf16: float = 0.0
    conv_fp32: float = 0.0
    matmul_bf16: float = 0.0
    matmul_fp32: float = 0.0
    copy: float = 0.0


def ceilings(threads: int, clock: Callable[[], float]) -> Ceilings:
    """Each on every thread at the same time, the best of five trials."""
    found = Ceilings()
    for kind, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        image = torch.randn(1, 128, 88, 72).to(dtype).to(memory_format=torch.channels_last)
        weight = torch.randn(128, 128, 3, 3).to(dtype).to(memory_format=torch.channels_last)
        a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
        work = 2 * 128 * 128 * 9 * 88 * 72 / 1e9
        setattr(found, f"conv_{kind}", rate(partial(F.conv2d, image, weight, padding=1), work, threads, clock))
        setattr(found, f"matmul_{kind}", rate(partial(torch.mm, a, b), 2 * 1024**3 / 1e9, threads, clock))
    big = [torch.zeros(1 << 24) for _ in range(2)]
    found.copy = rate(lambda: big[0].copy_(big[1]), 8 * big[0].numel() / 1e9, 1, clock)
    return found


@torch.inference_mode()
def rate(job: Callable[[], object], work: float, threads: int, clock: Callable[[], float], times: int = 6) -> float:
    """Work a second, every thread doing the job by itself."""

    def several(_: int) -> None:
        with torch.inference_mode():
            for _ in range(times):
                job()

    taken = []
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in range(6):
            since = clock()
            list(pool.map(several, range(threads)))
            taken.append(clock() - since)
    return threads * times * work / min(taken[1:])


def contenders(prepared: Prepared, groups: list[str], steps: list[int], count: int | None) -> list[Contender]:
    """Everything that is asked for."""
    found = []
    for taken in steps if "unet" in groups else []:
        group = f"unet, {taken} step{'s' * (taken > 1)}"
        for engine in ("auto", "eager"):
            name = f"dsdiff, {engine}"
            quick = count is None or (taken == 1 and engine == "auto")
            whole = None if quick else 4 * count  # enough for every worker
            found.append(cropped(name, group, ours("unet", taken, engine), prepared, whole, taken))
        found += [monai(group, prepared, count, taken), diffusers(group, prepared, count, taken)]
    for block in (b for b in ("dit", "vit") if b in groups):
        model = ours(block, 1, "auto")
        found.append(cropped("dsdiff, auto", f"{block}, 1 step", model, prepared, None, 1))
        found.append(naive("the same, naively", f"{block}, 1 step", model, prepared, count, 1))
    return found


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
    load = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "unknown"
    versions = {name: version(name) for name in ("torch", "monai", "diffusers")}
    return {"cpu": model, "threads": threads, "clock": clock, "load": load, "date": str(date.today()), **versions}


def cpuinfo() -> list[str]:
    """Lines of Linux's description of the processor; none elsewhere."""
    place = Path("/proc/cpuinfo")
    return place.read_text().splitlines() if place.exists() else []


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
    devices.set_threads(args.threads, workers.worthwhile)
    threads = torch.get_num_threads()
    clock = (lambda: time.process_time() / threads) if args.cpu else time.perf_counter
    (case,) = cases.discover(Path(str(args.case)))
    prepared = preprocess.apply(cases.load(case, ("t1", "t2", "flair")))
    todo = contenders(prepared, args.only, args.steps, args.slices)
    found = {"machine": machine(threads, "CPU" if args.cpu else "wall"), "case": case.name} | measure(
        todo, args.rounds, clock, threads
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    preview.save(draw(found), args.picture)
    print(table(found))


if __name__ == "__main__":
    main()
