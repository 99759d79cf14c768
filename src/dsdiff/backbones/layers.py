"""Blocks that more than one backbone uses, or that belong to the field's common vocabulary."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def timestep_embedding(t: Float[Tensor, " b"], dim: int, max_period: float = 10000.0) -> Float[Tensor, "b e"]:
    """Sinusoids of the timestep, cosines first.

    Source: Ho et al. 2020 (arXiv:2006.11239), after Vaswani et al. 2017 (arXiv:1706.03762, section 3.5).
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies  # b half
    embedding = torch.cat([angles.cos(), angles.sin()], 1)
    return embedding if dim % 2 == 0 else nn.functional.pad(embedding, (0, 1))


def zero_module(module: nn.Module) -> nn.Module:
    """Set every parameter to zero, so that the block starts as the identity (or the network at its declared start)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def normalization(channels: int) -> nn.GroupNorm:
    """The field's group norm: 32 groups; torch accumulates it in float32 whatever the input's type."""
    return nn.GroupNorm(32, channels)
