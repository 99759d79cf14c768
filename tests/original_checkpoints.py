"""Checkpoints of other programs with a tiny network, and the config of their training."""

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from dsdiff.backbones import disc_unet, ds_unet, registry
from dsdiff.originals.state_dicts import restore_state_dict
from dsdiff.types import ConditionLayout
from tests.toy_data import randomize_zeros

LAYOUT = ConditionLayout(("t1", "t2", "flair"))
UNET = {
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "num_head_channels": 32,
    "use_scale_shift_norm": True,
}
DIT = {"image_size": 32, "patch_size": 8, "hidden_size": 384, "depth": 1, "num_heads": 6}
PARAMS = {
    "unet": UNET,
    "disc_unet": UNET | disc_unet.ORIGINAL_STRUCTURE,
    "ds_unet": UNET | ds_unet.ORIGINAL_STRUCTURE,
    "dit": DIT,
}
HEADS = ("backbone.params.num_head_channels=32",)


def build_original(target: str, **changes: Any) -> dict[str, Tensor]:
    """Weights of a network by the names of its original."""
    torch.manual_seed(1)
    network = registry.build(registry.BackboneTarget(target=target, params=PARAMS[target] | changes), LAYOUT)
    randomize_zeros(network)
    return restore_state_dict(network.state_dict(), network)


def lightning_state(
    weights: dict[str, Tensor], averages: dict[str, Tensor] | None = None, timesteps: int = 1000
) -> dict[str, Tensor]:
    """The state dict of a latent-diffusion module."""
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in weights.items()}
    root_betas = torch.linspace(1e-4**0.5, 0.02**0.5, timesteps, dtype=torch.float64)
    state |= {"betas": root_betas.square().float(), "first_stage_model.logvar": torch.zeros(2)}
    for name, tensor in (averages or {}).items():
        state["model_ema." + f"diffusion_model.{name}".replace(".", "")] = tensor
    if averages:
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    return state


def save_state(path: Path, contents: Any) -> Path:
    """Write a file of torch.save, and return its path."""
    torch.save(contents, path)
    return path


def write_old_config(path: Path, **params: Any) -> Path:
    """Write a latent-diffusion config of the tiny UNet, and return its path."""
    unet_config = {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": UNET | {"image_size": 32, "in_channels": 4, "out_channels": 1} | params,
    }
    model = {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {"parameterization": "v", "timesteps": 1000, "linear_start": 1e-4, "linear_end": 0.02}
        | {"unet_config": unet_config},
    }
    path.write_text(yaml.safe_dump({"model": model}))
    return path
