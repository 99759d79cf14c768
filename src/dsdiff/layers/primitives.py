"""Building blocks of every backbone: timestep embedding, normalization, attention, checkpointing."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Attention scores that are computed at one time on a CPU in bf16, so that they stay in its cache. The fused kernel
# computes bf16 products in fp32 there.
MAX_ATTENTION_SCORES = 1 << 20
# Pixels below which the channels_last kernel of group norm goes channel by channel on a CPU, 15 times slower.
MIN_CHANNELS_LAST_PIXELS = 1024


def timestep_embedding(t: Float[Tensor, " b"], dim: int, max_period: float = 10000.0) -> Float[Tensor, "b e"]:
    """Compute sinusoids of the timestep, cosines first.

    Args:
        t: Timesteps.
        dim: Number of features.
        max_period: Period of the slowest sinusoid over 2 pi.

    Returns:
        float32 features of every timestep.

    Source: Ho et al. 2020 (arXiv:2006.11239), after Vaswani et al. 2017 (arXiv:1706.03762, section 3.5).
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies  # b half
    embedding = torch.cat([angles.cos(), angles.sin()], 1)  # b (2 half)
    return embedding if dim % 2 == 0 else F.pad(embedding, (0, 1))


def embed_timestep(mlp: nn.Module, t: Float[Tensor, " b"], dim: int) -> Float[Tensor, "b e"]:
    """Embed the timestep by sinusoids and an MLP.

    Args:
        mlp: A network from `dim` to e features.
        t: Timesteps.
        dim: Number of sinusoids.

    Returns:
        The embedding, in the precision of the MLP's weights.
    """
    dtype = next(mlp.parameters()).dtype
    return mlp(timestep_embedding(t, dim).to(dtype))


def zero_module(module: nn.Module) -> nn.Module:
    """Set every parameter to zero, so that a residual block starts as the identity and a network at a zero output.

    Args:
        module: The module to change.

    Returns:
        The same module.
    """
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class GroupNorm(nn.GroupNorm):
    """The group norm of torch, on the memory layout for which its CPU kernel is fast."""

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """Normalize features.

        Args:
            x: Features.

        Returns:
            Features of the same shape.
        """
        if torch.compiler.is_compiling():  # a traced graph serves every shape
            return super().forward(x)
        is_small = x.shape[2:].numel() < MIN_CHANNELS_LAST_PIXELS
        return super().forward(x.contiguous() if is_small else x)


def normalization(channels: int) -> GroupNorm:
    """Build the field's group norm: 32 groups. Torch accumulates in float32 whatever the dtype of the input.

    Args:
        channels: A multiple of 32.

    Returns:
        The layer.
    """
    return GroupNorm(32, channels)


def attention(
    q: Float[Tensor, "b heads n e"], k: Float[Tensor, "b heads m e"], v: Float[Tensor, "b heads m e"], fused: bool
) -> Float[Tensor, "b heads n e"]:
    """Compute softmax(q k^T / sqrt(e)) v.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        fused: Use torch's fused kernel; otherwise compute step by step.

    Returns:
        One vector per query.
    """
    if fused and q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        return _attention_in_chunks(q, k, v)
    if fused:
        return F.scaled_dot_product_attention(q, k, v)

    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # b heads n m
    return torch.softmax(scores.float(), -1).type(v.dtype) @ v


def _attention_in_chunks(q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "b heads n e"]:
    """Attention with at most `MAX_ATTENTION_SCORES` scores at one time."""
    scaled = q / math.sqrt(q.shape[-1])
    chunk_size = max(1, MAX_ATTENTION_SCORES // (q.shape[:2].numel() * k.shape[2]))
    chunks = []
    for q_chunk in scaled.split(chunk_size, 2):
        scores = q_chunk @ k.transpose(-1, -2)  # b heads chunk m
        chunks.append(torch.softmax(scores, -1) @ v)
    return torch.cat(chunks, 2)


def maybe_checkpoint(block: Callable[..., Any], *args: Tensor | list[Tensor], use_checkpoint: bool) -> Any:
    """Run a block, with gradient checkpointing if that is switched on.

    Args:
        block: A module or function.
        args: Its arguments.
        use_checkpoint: Compute activations again in the backward pass instead of keeping them.

    Returns:
        `block(*args)`.

    Source: Chen et al. 2016 (arXiv:1604.06174).
    """
    if use_checkpoint and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)
