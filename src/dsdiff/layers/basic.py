"""What every backbone shares: the vocabulary of its params, the timestep embedding, attention, checkpointing."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dsdiff.schema import ConfigModel

SCORES = 1 << 20  # held at one time: they stay in the cache. The fused kernel computes bf16 products in fp32 on a CPU


class BackboneParams(ConfigModel):
    """Params that every backbone takes. Unknown keys are refused.

    in_channels: channels of x_t and the condition together; found out where it is left out, checked where it is not.
    use_checkpoint: gradient checkpointing, less memory in training for about a third more time.
    fused: torch's scaled-dot-product attention; off, the same in plain steps.
    """

    in_channels: int | None = Field(None, ge=1)
    out_channels: int = Field(1, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    use_checkpoint: bool = False
    fused: bool = True

    @property
    def outputs(self) -> int:
        """Channels that come out."""
        return self.out_channels

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is legal here but surely not meant, in words."""
        return ()


def timestep_embedding(t: Float[Tensor, " b"], dim: int, max_period: float = 10000.0) -> Float[Tensor, "b e"]:
    """Sinusoids of the timestep, cosines first.

    Source: Ho et al. 2020 (arXiv:2006.11239), after Vaswani et al. 2017 (arXiv:1706.03762, section 3.5).
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies  # b half
    embedding = torch.cat([angles.cos(), angles.sin()], 1)
    return embedding if dim % 2 == 0 else F.pad(embedding, (0, 1))


def embedded(mlp: nn.Module, t: Float[Tensor, " b"], dim: int) -> Float[Tensor, "b e"]:
    """Sinusoids of the timestep through an MLP, in the precision of its weights."""
    return mlp(timestep_embedding(t, dim).to(next(mlp.parameters()).dtype))


def zero_module(module: nn.Module) -> nn.Module:
    """Set every parameter to zero, so that the block starts as the identity (or the network at its declared start)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class GroupNorm(nn.GroupNorm):
    """torch's, given the layout that its CPU kernel is quick in."""

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        if torch.compiler.is_compiling():  # a trace is for every shape
            return super().forward(x)
        small = x.shape[2:].numel() < 1024  # there its channels_last kernel goes channel by channel: 15 times slower
        return super().forward(x.contiguous() if small else x)


def normalization(channels: int) -> GroupNorm:
    """The field's group norm: 32 groups; torch accumulates it in float32 whatever the input's type."""
    return GroupNorm(32, channels)


def attention(
    q: Float[Tensor, "b heads n e"], k: Float[Tensor, "b heads m e"], v: Float[Tensor, "b heads m e"], fused: bool
) -> Float[Tensor, "b heads n e"]:
    """softmax(q k^T / sqrt(e)) v, by torch's fused kernel or step by step."""
    if fused and q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        scaled, rows = q / math.sqrt(q.shape[-1]), max(1, SCORES // (q.shape[:2].numel() * k.shape[2]))
        return torch.cat([torch.softmax(part @ k.transpose(-1, -2), -1) @ v for part in scaled.split(rows, 2)], 2)
    if fused:
        return F.scaled_dot_product_attention(q, k, v)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return torch.softmax(scores.float(), -1).type(v.dtype) @ v


def run(block: Callable[..., Any], *args: Tensor | list[Tensor], use_checkpoint: bool) -> Any:
    """`block(*args)`, its activations computed again in the backward pass rather than kept if `use_checkpoint`.

    Source: Chen et al. 2016 (arXiv:1604.06174).
    """
    if use_checkpoint and torch.is_grad_enabled():
        return checkpoint(block, *args, use_reentrant=False)
    return block(*args)
