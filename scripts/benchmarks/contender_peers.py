"""MONAI and diffusers as contenders. They do not know where the brain is: they compute whole slices."""

from collections.abc import Callable

import numpy as np
import torch
from contender import Contender, Workload, count_millions, randomize_zeros, select_slices, whole_slice
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dsdiff.conditioning import condition
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import slices
from dsdiff.preprocessing.normalize import LoadedCase

INPUT_CHANNELS = 13  # x_t, three slices of three contrasts, three edge maps


def build_condition(loaded: LoadedCase, batch: list[int]) -> Tensor:
    """Build the maps that MONAI and diffusers concatenate to x_t: the same channels that dsdiff's networks get.

    Args:
        loaded: The case.
        batch: Numbers of the slices.

    Returns:
        The maps, (batch, channels, height, width).
    """
    stack = slices.stack_contrasts(loaded.case, ("t1", "t2", "flair"))
    height, width, _ = to_canonical(loaded.geometry.grid).shape
    sources = torch.from_numpy(np.stack([stack.take(whole_slice(loaded, z, height, width), 3) for z in batch]))
    present = torch.ones(sources.shape[:2], dtype=torch.bool)
    return condition.build_condition(condition.ConditioningConfig(edges="sobel"), sources, present).maps()


def build_monai(workload: Workload) -> Contender:
    """Build the contender with MONAI's network, inferer and scheduler.

    Args:
        workload: The volume.

    Returns:
        The contender.
    """
    from monai.inferers import DiffusionInferer
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDIMScheduler

    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=INPUT_CHANNELS,
        out_channels=1,
        channels=(64, 128, 256),
        num_res_blocks=3,
        attention_levels=(False, False, False),
        num_head_channels=256,
    )
    randomize_zeros(network)
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(num_inference_steps=workload.steps)
    inferer = DiffusionInferer(scheduler)

    @torch.no_grad()
    def sample(maps: Tensor) -> None:
        noise = torch.randn(len(maps), 1, *maps.shape[2:])
        inferer.sample(noise, network, scheduler, conditioning=maps, mode="concat", verbose=False)

    return build_peer("MONAI", network, sample, workload)


def build_diffusers(workload: Workload) -> Contender:
    """Build the contender with diffusers' network and scheduler, in the loop of its documentation.

    Args:
        workload: The volume.

    Returns:
        The contender.
    """
    from diffusers import DDIMScheduler, UNet2DModel

    network = UNet2DModel(
        sample_size=240,
        in_channels=INPUT_CHANNELS,
        out_channels=1,
        layers_per_block=3,
        block_out_channels=(64, 128, 256),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        attention_head_dim=256,
    )
    randomize_zeros(network)
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(workload.steps)

    @torch.no_grad()
    def sample(maps: Tensor) -> None:
        image = torch.randn(len(maps), 1, *maps.shape[2:])
        for t in scheduler.timesteps:
            predicted_noise = network(torch.cat([image, maps], 1), t).sample
            image = scheduler.step(predicted_noise, t, image).prev_sample

    return build_peer("diffusers", network, sample, workload)


def build_peer(name: str, network: nn.Module, sample: Callable[[Tensor], None], workload: Workload) -> Contender:
    """Build a contender that computes whole slices in batches of four.

    Args:
        name: Title of the contender.
        network: The network.
        sample: Samples a batch from its conditioning maps.
        workload: The volume.

    Returns:
        The contender.
    """
    _, _, n_volume_slices = to_canonical(workload.loaded.geometry.grid).shape
    batches = select_slices(n_volume_slices, workload.n_slices)
    batch_maps = [build_condition(workload.loaded, batch) for batch in batches]
    x_t = torch.randn(1, INPUT_CHANNELS, *batch_maps[0].shape[2:])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(x_t, torch.tensor([1]))

    def compute() -> None:
        for maps in batch_maps:
            sample(maps)

    return Contender(
        name=name,
        group=workload.group,
        compute=compute,
        share=sum(map(len, batches)) / n_volume_slices,
        gflops=n_volume_slices * workload.steps * counter.get_total_flops() / 1e9,
        parameters_millions=count_millions(network),
    )
