"""How fast a training step is, beside the bare loop and beside MONAI's, and how time and memory grow.

python benchmarks/training.py [--out benchmarks/results/training.json] [--picture docs/pictures/training.png]
    [--minutes 4] [--quick]

Three parts, each in one run on one thread of the CPU, all times in CPU seconds:
- `ours` is what `dsdiff train` does of a step (times and noise drawn, loss, gradients, clipping, AdamW, average, checks
  and log), `bare` the same network, loss and AdamW on the same synthetic batch and nothing else.
- MONAI's DiffusionModelUNet of about as many parameters in the loop of MONAI's tutorial (DiffusionInferer in concat
  mode, mean squared error, Adam, float32), on slices of the same size with as many conditioning channels; ours as it is
  shipped (configs/bridge-small.yaml, bf16 where the CPU has it), the same in float32, and the same in float32 without
  the pixel unshuffle, at MONAI's resolution.
The arms of a part take turns, one step each, and ratios are taken within a turn: what else the machine does disturbs
all alike. Medians over the turns.
- Seconds of a step against the batch, and the peak of memory against the side of the slice beside what `dsdiff train
  --dry-run` estimates, each in a process of its own.
Writes JSON and a picture, prints Markdown. About 6 minutes on an idle core; --quick is a smoke test.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.console import Console

from dsdiff.config import run as configs
from dsdiff.config.run import RunConfig
from dsdiff.data.batch_sampling import Batch
from dsdiff.profiling import cost, memory
from dsdiff.profiling.subprocess import apart
from dsdiff.system import device as devices
from dsdiff.training.loss_module import Objective
from dsdiff.training.metrics_logger import Watch
from dsdiff.training.trainer import Trainer, learning_rate

CPU = torch.device("cpu")
RECIPE = ("bridge-small", ("conditioning.edges=sobel", "conditioning.style=none"))
Step = Callable[[], object]


def recipe(*overrides: str) -> RunConfig:
    """The small bridge with edges: two residual blocks a level, as MONAI's network of about as many parameters."""
    return configs.load(RECIPE[0], (*RECIPE[1], *overrides))


def synthetic(config: RunConfig, slices: int) -> Batch:
    """Slices of noise."""
    data, generator = config.data, torch.Generator().manual_seed(0)
    shape = (slices, len(data.contrasts), data.context_slices, *data.crop)
    target = torch.randn(slices, 1, *data.crop, generator=generator)
    region = torch.ones(target.shape, dtype=torch.uint8)
    present = torch.ones(shape[:2], dtype=torch.bool)
    return Batch(torch.randn(shape, generator=generator), target, region, present, None, ("noise",) * slices)


def ours(config: RunConfig, folder: Path) -> Step:
    """One step as `dsdiff train` takes it, log and all."""
    trainer, batch = Trainer(config, CPU), synthetic(config, config.training.batch_size)
    folder.mkdir()
    watch = Watch(folder, config.training, 0, len(batch.target), Console(quiet=True), True)

    def step() -> None:
        rng = np.random.default_rng([config.seed, trainer.step])
        rate = learning_rate(config.training, trainer.step)
        loss = trainer.train_step(batch, torch.Generator().manual_seed(int(rng.integers(2**62))))
        watch.write(watch.step(trainer.step, loss, rate), folder / "none.png")

    return step


def bare(config: RunConfig) -> Step:
    """The same network, loss and optimiser, and nothing else."""
    objective, batch = Objective(config, config.build_network()), synthetic(config, config.training.batch_size)
    optimizer = torch.optim.AdamW(objective.parameters(), config.training.lr, fused=True)
    time_, noise = objective.process.draw_times(len(batch.target), torch.Generator()), torch.randn(batch.target.shape)

    def step() -> None:
        loss, _ = objective(batch, time_, noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def monai(config: RunConfig) -> tuple[Step, int]:
    """MONAI's network in the loop of its tutorial on conditioning by concatenation; and how many parameters it has.

    Source: Project-MONAI/tutorials, generation/2d_ddpm (Adam at 2.5e-5, mean squared error of the noise).
    """
    from monai.inferers import DiffusionInferer
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDPMScheduler

    data, size = config.data, config.training.batch_size
    told = config.conditioning.layout(data.contrasts, data.context_slices).channels
    network = DiffusionModelUNet(
        spatial_dims=2, in_channels=1 + told, out_channels=1, channels=(32, 64, 96, 96), num_res_blocks=2,
        attention_levels=(False, False, False, True), num_head_channels=32, norm_num_groups=32,
    )  # fmt: skip
    network.train()
    inferer = DiffusionInferer(DDPMScheduler(num_train_timesteps=1000))
    optimizer = torch.optim.Adam(network.parameters(), lr=2.5e-5)
    images, condition = torch.randn(size, 1, *data.crop), torch.randn(size, told, *data.crop)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        noise = torch.randn_like(images)
        timesteps = torch.randint(0, 1000, (size,)).long()
        predicted = inferer(
            inputs=images, diffusion_model=network, noise=noise, timesteps=timesteps, condition=condition, mode="concat"
        )
        loss = F.mse_loss(predicted.float(), noise.float())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, sum(p.numel() for p in network.parameters())


def interleaved(arms: dict[str, Step], seconds: float, least: int) -> dict[str, list[float]]:
    """CPU seconds of every arm's steps, one each in turn, after one that warms up; the order turns round each time."""
    for step in arms.values():
        step()
    taken: dict[str, list[float]] = {name: [] for name in arms}
    begun, names = time.process_time(), list(arms)
    while len(taken[names[0]]) < least or time.process_time() - begun < seconds:
        for name in names:
            since = time.process_time()
            arms[name]()
            taken[name].append(time.process_time() - since)
        names.reverse()
    return taken


def ratios(taken: dict[str, list[float]], of: str, to: str) -> dict[str, float]:
    """Median and quartiles of the time of one arm over another's, turn by turn."""
    each = [a / b for a, b in zip(taken[of], taken[to], strict=True)]
    low, median, high = statistics.quantiles(each, n=4)
    return {"median": round(median, 4), "low": round(low, 4), "high": round(high, 4), "turns": len(each)}


def peak(overrides: tuple[str, ...]) -> float:
    """GB above the process that a step takes, in a process of its own."""
    devices.peak_memory(CPU)
    before = devices.peak_memory(CPU)
    config = recipe(*overrides)
    trainer = Trainer(config, CPU)
    for step in range(2):
        trainer.train_step(synthetic(config, config.training.batch_size), torch.Generator().manual_seed(step))
    return (devices.peak_memory(CPU) - before) / 1e9


def growth(quick: bool) -> dict[str, list[dict[str, float]]]:
    """Seconds of a step against the batch; peak of memory, measured and estimated, against side and batch."""
    against_batch = []
    for size in (1, 2) if quick else (1, 2, 4, 8, 12):
        step = ours(recipe(f"training.batch_size={size}"), Path(tempfile.mkdtemp()) / "run")
        taken = interleaved({"ours": step}, 0, 3)["ours"]
        against_batch.append({"batch": size, "seconds": round(statistics.median(taken), 3)})
    against_side = []
    for side, size in ((64, 2),) if quick else ((64, 4), (128, 4), (192, 4), (256, 4), (128, 16)):
        overrides = (f"data.crop=[{side},{side}]", f"training.batch_size={size}")
        config = recipe(*overrides)
        half = devices.precision_of(CPU, config.training.precision) != "fp32"
        estimate = memory.need(config, cost.count(config, side, side), half).of(size) / 1e9
        measured = apart(peak, overrides)
        against_side.append(
            {"side": side, "batch": size, "estimated": round(estimate, 3), "measured": round(measured, 3)}
        )
    return {"batch": against_batch, "side": against_side}


def draw(found: dict[str, Any], path: Path) -> None:
    """Two panels: seconds against batch, GB against side."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = found["growth"]["batch"]
    left.plot([row["batch"] for row in rows], [row["seconds"] for row in rows], marker="o")
    left.set_xlabel("slices at once (128 x 160)")
    left.set_ylabel("CPU seconds of a step, one thread")
    rows = [row for row in found["growth"]["side"] if row["batch"] == found["growth"]["side"][0]["batch"]]
    for name, style in (("measured", "-"), ("estimated", "--")):
        right.plot([row["side"] for row in rows], [row[name] for row in rows], style, marker="o", label=name)
    right.set_xlabel(f"side of the slice, pixels (batch {rows[0]['batch']})")
    right.set_ylabel("peak memory of training, GB")
    right.legend(frameon=False)
    for axis in (left, right):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def tables(found: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = [f"`{found['command']}`, {found['date']}, torch {found['torch']}, one thread", ""]
    lines += ["| step of | parameters | CPU s a step | against |", "|---|---|---|---|"]
    for name, arm in found["arms"].items():
        told = "; ".join(
            f"{r['median']:.3f} [{r['low']:.3f}, {r['high']:.3f}] of {to} ({r['turns']} turns)"
            for to, r in arm["of"].items()
        )
        lines.append(f"| {name} | {arm['parameters'] / 1e6:.2f} M | {arm['seconds']:.3f} | {told} |")
    lines += ["", "| side | batch | GB measured | GB estimated | measured / estimated |", "|---|---|---|---|---|"]
    for row in found["growth"]["side"]:
        share = row["measured"] / row["estimated"]
        lines.append(
            f"| {row['side']} | {row['batch']} | {row['measured']:.2f} | {row['estimated']:.2f} | {share:.2f} |"
        )
    lines += ["", "| batch | CPU s a step | a slice |", "|---|---|---|"]
    lines += [
        f"| {r['batch']} | {r['seconds']:.2f} | {r['seconds'] / r['batch']:.3f} |" for r in found["growth"]["batch"]
    ]
    return "\n".join(lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/training.png"))
    parser.add_argument("--minutes", type=float, default=4.0, help="of CPU for the arms")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    budget = 0.0 if given.quick else 60 * given.minutes
    size = ("training.batch_size=2",) if given.quick else ("training.batch_size=4",)
    own = recipe(*(size if given.quick else ()))  # at the batch of the recipe
    shipped, plain = recipe(*size), recipe(*size, "training.precision=fp32")
    full = recipe(
        *size, "training.precision=fp32", "backbone.params.stem=1", "backbone.params.attention_resolutions=[8]"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        step, parameters = monai(shipped)
        precise = interleaved({"ours": ours(own, folder / "a"), "bare": bare(own)}, 0.3 * budget, 4)
        arms = {"ours": ours(shipped, folder / "b"), "ours fp32": ours(plain, folder / "c")}
        arms |= {"ours fp32, no stem": ours(full, folder / "d"), "MONAI fp32": step}
        peers = interleaved(arms, 0.7 * budget, 2)
    n = {name: sum(p.numel() for p in c.sketch().parameters()) for name, c in (("stem", shipped), ("full", full))}
    counts = {"ours": n["stem"], "ours fp32": n["stem"], "ours fp32, no stem": n["full"], "MONAI fp32": parameters}
    found: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "precision of ours": devices.precision_of(CPU),
        "batch": {"against the bare loop": own.training.batch_size, "against MONAI": shipped.training.batch_size},
        "crop": list(shipped.data.crop),
        "arms": {
            "ours (every part of a step)": {
                "parameters": n["stem"],
                "seconds": round(statistics.median(precise["ours"]), 4),
                "of": {"the bare loop": ratios(precise, "ours", "bare")},
            },
            **{
                name: {
                    "parameters": counts[name],
                    "seconds": round(statistics.median(taken), 4),
                    "of": {} if name == "MONAI fp32" else {"MONAI": ratios(peers, name, "MONAI fp32")},
                    "times as fast as MONAI": ratios(peers, "MONAI fp32", name),
                }
                for name, taken in peers.items()
            },
        },
        "growth": growth(given.quick),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, given.picture)
    print(tables(found))


if __name__ == "__main__":
    main()
