"""Exponential moving average of weights."""

import torch
from torch import Tensor, nn

from dsdiff.system.distributed import local_tensor


class EMA:
    """Exponential moving average of the weights of a network; sharded as the network is.

    Step n uses the decay min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten.

    Args:
        network: Its weights are the first average.
        decay: Weight of the old average in each step, 0 to 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in network.state_dict().items()
        }

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the average towards the weights of the network.

        Args:
            network: The network.
            step: Number of the step, from 1.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = []
        current: list[Tensor] = []
        for name, tensor in network.state_dict().items():
            average = local_tensor(self.weights[name])
            if average.is_floating_point():
                averages.append(average)
                current.append(local_tensor(tensor))
            else:  # a count, such as that of a batch norm
                average.copy_(local_tensor(tensor))
        torch._foreach_lerp_(averages, current, 1 - decay)
