"""Exponential moving average of weights."""

import torch
from torch import Tensor, nn

from dsdiff.system.distributed import local


class EMA:
    """Keeps `decay` of the average at each step, less at the beginning: min(decay, (1 + n) / (10 + n)).

    Where the network is shared out among processes, so is its average.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights after step number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = [(local(self.weights[name]), local(value)) for name, value in network.state_dict().items()]
        moving = [(mine, its) for mine, its in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in moving], [its for _, its in moving], 1 - decay)
        for mine, its in pairs:
            if not mine.is_floating_point():  # a count, as a batch norm keeps
                mine.copy_(its)
