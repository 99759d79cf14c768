"""Training steps that training.py times: dsdiff, a bare loop, and MONAI."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from dsdiff.config.run import RunConfig, load_config
from dsdiff.data.batch_sampling import Batch
from dsdiff.training.loss_module import LossModule
from dsdiff.training.metrics_logger import MetricsLogger
from dsdiff.training.trainer import Trainer, learning_rate

CPU = torch.device("cpu")
CONFIG = "bridge-small"
CONDITIONING = ("conditioning.edges=sobel", "conditioning.style=none")
TrainStep = Callable[[], object]


def load_recipe(*overrides: str) -> RunConfig:
    """Load the small bridge with edges, which has two residual blocks per level, as MONAI's network.

    Args:
        *overrides: KEY=VALUE changes.

    Returns:
        The config.
    """
    return load_config(CONFIG, (*CONDITIONING, *overrides))


def noise_batch(config: RunConfig) -> Batch:
    """Create a batch of noise.

    Args:
        config: The config.

    Returns:
        A batch of `training.batch_size` slices.
    """
    data, n_slices = config.data, config.training.batch_size
    generator = torch.Generator().manual_seed(0)
    shape = (n_slices, len(data.contrasts), data.context_slices, *data.crop)
    target = torch.randn(n_slices, 1, *data.crop, generator=generator)
    region = torch.ones(target.shape, dtype=torch.uint8)
    present = torch.ones(shape[:2], dtype=torch.bool)
    return Batch(torch.randn(shape, generator=generator), target, region, present, None, ("noise",) * n_slices)


def build_dsdiff_step(config: RunConfig, folder: Path) -> TrainStep:
    """Build a step as `dsdiff train` does it, with its log.

    Args:
        config: The config.
        folder: Run folder; it must not exist.

    Returns:
        The step.
    """
    trainer, batch = Trainer(config, CPU), noise_batch(config)
    folder.mkdir()
    logger = MetricsLogger(folder, config.training, 0, len(batch.target))

    def step() -> None:
        rng = np.random.default_rng([config.seed, trainer.step])
        rate = learning_rate(config.training, trainer.step)
        loss = trainer.train_step(batch, torch.Generator().manual_seed(int(rng.integers(2**62))))
        logger.write(logger.record_step(trainer.step, loss, rate), folder / "none.png")

    return step


def build_bare_step(config: RunConfig) -> TrainStep:
    """Build a step with the same network, loss and optimizer, and nothing else.

    Args:
        config: The config.

    Returns:
        The step.
    """
    loss_module, batch = LossModule(config, config.build_network()), noise_batch(config)
    optimizer = torch.optim.AdamW(loss_module.parameters(), config.training.lr, fused=True)
    t = loss_module.process.sample_times(len(batch.target), torch.Generator())
    noise = torch.randn(batch.target.shape)

    def step() -> None:
        loss, _ = loss_module(batch, t, noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def build_monai_step(config: RunConfig) -> tuple[TrainStep, int]:
    """Build a step of MONAI's network in the loop of its tutorial on conditioning by concatenation.

    Args:
        config: Gives the size of the batch and the number of conditioning channels.

    Returns:
        The step, and the number of parameters.

    Source: Project-MONAI/tutorials, generation/2d_ddpm (Adam at 2.5e-5, mean squared error of the noise).
    """
    from monai.inferers import DiffusionInferer
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDPMScheduler

    data, batch_size = config.data, config.training.batch_size
    n_map_channels = len(config.conditioning.layout(data.contrasts, data.context_slices).map_channels)
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1 + n_map_channels,
        out_channels=1,
        channels=(32, 64, 96, 96),
        num_res_blocks=2,
        attention_levels=(False, False, False, True),
        num_head_channels=32,
        norm_num_groups=32,
    )
    network.train()
    inferer = DiffusionInferer(DDPMScheduler(num_train_timesteps=1000))
    optimizer = torch.optim.Adam(network.parameters(), lr=2.5e-5)
    images = torch.randn(batch_size, 1, *data.crop)
    condition = torch.randn(batch_size, n_map_channels, *data.crop)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        noise = torch.randn_like(images)
        timesteps = torch.randint(0, 1000, (batch_size,)).long()
        predicted_noise = inferer(
            inputs=images, diffusion_model=network, noise=noise, timesteps=timesteps, condition=condition, mode="concat"
        )
        loss = F.mse_loss(predicted_noise.float(), noise.float())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, sum(p.numel() for p in network.parameters())
