"""Begin with the weights of a model folder, whose contrasts or slab may be others than this run's."""

from pathlib import Path

from dsdiff.conditioning.network import Network
from dsdiff.config import RunConfig


def begin(network: Network, config: RunConfig, folder: Path) -> None:
    """To be written."""
