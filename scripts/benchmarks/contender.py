"""A way to compute a volume, and what all of them need."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dsdiff.preprocessing import slices
from dsdiff.preprocessing.normalize import LoadedCase

PEER_BATCH_SIZE = 4


@dataclass(frozen=True)
class Workload:
    """A volume to compute.

    Attributes:
        group: Title of the contenders that are compared with each other.
        loaded: The case.
        steps: Sampling steps.
        n_slices: Number of slices to compute; None computes all.
    """

    group: str
    loaded: LoadedCase
    steps: int
    n_slices: int | None


@dataclass(frozen=True)
class Contender:
    """A way to compute a volume.

    Attributes:
        name: Title of the contender.
        group: Title of its group.
        compute: Computes `share` of the volume.
        share: Fraction of the volume, 0 to 1.
        gflops: 10^9 floating-point operations of the whole volume.
        parameters_millions: Parameters of the network, in millions.
    """

    name: str
    group: str
    compute: Callable[[], object]
    share: float
    gflops: float
    parameters_millions: float


def randomize_zeros(network: nn.Module) -> nn.Module:
    """Replace parameters that start at zero by small random numbers, so that no kernel profits from zeros.

    Args:
        network: The network, changed in place.

    Returns:
        The network in evaluation mode.
    """
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network.eval()


def count_millions(network: nn.Module) -> float:
    """Count the parameters of a network.

    Args:
        network: The network.

    Returns:
        Parameters in millions.
    """
    return sum(p.numel() for p in network.parameters()) / 1e6


def select_slices(n_volume_slices: int, n_slices: int | None) -> list[list[int]]:
    """Select evenly spaced slices of a volume, and divide them into batches.

    Args:
        n_volume_slices: Number of slices of the volume.
        n_slices: Number of slices to select; None selects all.

    Returns:
        Batches of slice numbers.
    """
    numbers: Iterable[int] = range(n_volume_slices)
    if n_slices is not None:
        numbers = np.linspace(0, n_volume_slices - 1, n_slices).astype(int).tolist()
    selected = list(numbers)
    return [selected[first : first + PEER_BATCH_SIZE] for first in range(0, len(selected), PEER_BATCH_SIZE)]


def whole_slice(loaded: LoadedCase, z: int, height: int, width: int) -> slices.Box:
    """Locate a slice of the full volume in the cropped case.

    Args:
        loaded: The case.
        z: Number of the slice in the full volume.
        height: Height of the slice, in pixels.
        width: Width of the slice, in pixels.

    Returns:
        The box, from the first corner of the full volume.
    """
    x_offset, y_offset, z_offset = loaded.geometry.corner
    return slices.Box(z - z_offset, -x_offset, -y_offset, height, width)
