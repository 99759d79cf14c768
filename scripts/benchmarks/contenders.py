"""Ways to compute a volume that benchmarks/inference.py sets side by side: ours, the naive one, MONAI and diffusers.

The peers know no brain: they compute every slice of the volume whole. Weights are random and awake.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dsdiff.conditioning import condition
from dsdiff.config import run as configs
from dsdiff.inference.model import Model
from dsdiff.inference.options import plan
from dsdiff.inference.pipeline import complete
from dsdiff.preprocessing import slices
from dsdiff.preprocessing.normalize import Prepared
from dsdiff.profiling import cost
from dsdiff.volume import to_canonical

CPU = torch.device("cpu")
BRIDGE, DDIM = Path("configs/bridge-small.yaml"), Path("configs/formulations/eps-formulation.yaml")
CHANNELS = 13  # x_t, three slices of three contrasts, three edge maps
TOLD = ("conditioning.edges=sobel", "conditioning.style=none")


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
    return 2 * cost.count(model.config, h, w).macs / 1e9


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
    x, y, z = to_canonical(prepared.grid).shape
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
    h, w, _ = to_canonical(prepared.grid).shape
    sources = torch.from_numpy(np.stack([stacked.take(whole_slice(prepared, z, h, w), 3) for z in chosen]))
    present = torch.ones(sources.shape[:2], dtype=torch.bool)
    return condition.build(condition.ConditioningConfig(edges="sobel"), sources, present).maps()


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
    _, _, z = to_canonical(prepared.grid).shape
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
