"""Ways to compute a volume that inference.py compares: dsdiff, a naive loop, MONAI and diffusers."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from contender import Contender, Workload, count_millions, randomize_zeros, select_slices, whole_slice
from contender_peers import build_diffusers, build_monai

from dsdiff.config.run import load_config
from dsdiff.inference.model import Model
from dsdiff.inference.options import SynthesisOptions
from dsdiff.inference.pipeline import Pipeline
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import slices
from dsdiff.preprocessing.normalize import LoadedCase, PreprocessedCase
from dsdiff.profiling import cost

CPU = torch.device("cpu")
BRIDGE_CONFIG = Path("configs/bridge-small.yaml")
DDIM_CONFIG = Path("configs/formulations/eps-formulation.yaml")
CONDITIONING = ("conditioning.edges=sobel", "conditioning.style=none")


def build_model(block: str, steps: int, engine: str) -> Model:
    """Build a model of the size of the published table, with random weights.

    Args:
        block: unet, dit or vit.
        steps: 1 builds the bridge of the shipped model, more build DDIM on the predicted noise.
        engine: Name of the inference engine.

    Returns:
        The model.
    """
    recipe = BRIDGE_CONFIG if steps == 1 else DDIM_CONFIG
    config = load_config(recipe, (f"backbone=configs/backbones/{block}-table.yaml", *CONDITIONING))
    network = randomize_zeros(config.build_network())
    return Model(block, "0", config, network, config.build_process(), config.build_sampler(), CPU, engine)


def build_dsdiff(name: str, model: Model, workload: Workload) -> Contender:
    """Build the contender that computes the boxes of the brain with dsdiff.

    Args:
        name: Title of the contender.
        model: The model.
        workload: The volume.

    Returns:
        The contender.
    """
    case = workload.loaded.case
    thinned_case = thin_slices(case, workload.n_slices)
    boxes = slices.brain_boxes(case.brain, model.multiple)
    gflops_by_shape = {shape: slice_gflops(model, *shape) for shape in {(box.h, box.w) for box in boxes}}
    gflops = workload.steps * sum(gflops_by_shape[box.h, box.w] for box in boxes)

    pipeline = Pipeline(model, SynthesisOptions(steps=workload.steps))
    return Contender(
        name=name,
        group=workload.group,
        compute=partial(pipeline.synthesize_preprocessed, thinned_case),
        share=count_pixels(thinned_case, model) / count_pixels(case, model),
        gflops=gflops,
        parameters_millions=count_millions(model.network),
    )


def thin_slices(case: PreprocessedCase, n_slices: int | None) -> PreprocessedCase:
    """Reduce a case to evenly spaced slices of its brain.

    Args:
        case: The case.
        n_slices: Number of slices; None keeps all.

    Returns:
        The case with a smaller brain mask.
    """
    if n_slices is None:
        return case
    brain_slices = np.flatnonzero(case.brain.any((0, 1)))
    positions = np.linspace(0, len(brain_slices) - 1, n_slices + 2).round().astype(int)[1:-1]
    selected = brain_slices[positions]
    brain = np.zeros_like(case.brain)
    brain[:, :, selected] = case.brain[:, :, selected]
    return replace(case, brain=brain)


def count_pixels(case: PreprocessedCase, model: Model) -> int:
    """Count the pixels that the network computes in one step.

    Args:
        case: The case.
        model: The model.

    Returns:
        Number of pixels over all slices.
    """
    return sum(box.h * box.w for box in slices.brain_boxes(case.brain, model.multiple))


def slice_gflops(model: Model, height: int, width: int) -> float:
    """Count the floating-point operations of one slice in one step.

    Args:
        model: The model.
        height: Height of the slice, in pixels.
        width: Width of the slice, in pixels.

    Returns:
        10^9 floating-point operations.
    """
    return 2 * cost.count_cost(model.config, height, width).macs / 1e9


def build_naive(name: str, model: Model, workload: Workload) -> Contender:
    """Build the contender that runs the network without an engine: float32, contiguous, whole slices, batches of four.

    Args:
        name: Title of the contender.
        model: The model.
        workload: The volume.

    Returns:
        The contender.
    """
    loaded = workload.loaded
    x, y, n_volume_slices = to_canonical(loaded.geometry.grid).shape
    batches = select_slices(n_volume_slices, workload.n_slices)
    height, width = (-(-side // model.multiple) * model.multiple for side in (x, y))  # rounded up
    stack = slices.stack_contrasts(loaded.case, model.contrasts)
    context_slices = model.config.data.context_slices

    @torch.inference_mode()
    def compute() -> None:
        for batch in batches:
            boxes = [whole_slice(loaded, z, height, width) for z in batch]
            sources = torch.from_numpy(np.stack([stack.take(box, context_slices) for box in boxes]))
            present = torch.ones(sources.shape[:2], dtype=torch.bool)
            t = torch.full((len(batch),), 1000.0)
            x_t = sources[:, 0, 1, None]
            for _ in range(workload.steps):
                x_t = x_t + model.network(x_t, t, model.network.condition(sources, present)).value

    return Contender(
        name=name,
        group=workload.group,
        compute=compute,
        share=sum(map(len, batches)) / n_volume_slices,
        gflops=n_volume_slices * workload.steps * slice_gflops(model, height, width),
        parameters_millions=count_millions(model.network),
    )


def build_contenders(
    loaded: LoadedCase, blocks: list[str], step_counts: list[int], n_slices: int | None
) -> list[Contender]:
    """Build all contenders.

    Args:
        loaded: The case.
        blocks: Any of unet, dit and vit.
        step_counts: Sampling steps of the unet.
        n_slices: Number of slices that slow contenders compute; None computes all.

    Returns:
        The contenders, group by group; the first of a group is its reference.
    """
    contenders = []
    for steps in step_counts if "unet" in blocks else []:
        workload = Workload(f"unet, {steps} step{'s' * (steps > 1)}", loaded, steps, n_slices)
        for engine in ("auto", "eager"):
            computes_all = n_slices is None or (steps == 1 and engine == "auto")
            n_dsdiff_slices = None if computes_all else 4 * n_slices  # enough for every worker
            dsdiff_workload = replace(workload, n_slices=n_dsdiff_slices)
            contenders.append(build_dsdiff(f"dsdiff, {engine}", build_model("unet", steps, engine), dsdiff_workload))
        contenders += [build_monai(workload), build_diffusers(workload)]

    for block in ("dit", "vit"):
        if block in blocks:
            model = build_model(block, 1, "auto")
            workload = Workload(f"{block}, 1 step", loaded, 1, n_slices)
            contenders.append(build_dsdiff("dsdiff, auto", model, replace(workload, n_slices=None)))
            contenders.append(build_naive("naive loop", model, workload))
    return contenders
