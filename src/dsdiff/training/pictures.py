"""Pictures of a run: fixed slices, to be looked at while it trains."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.image import imsave
from torch import Tensor

from dsdiff.data.batch import Batch


def save_samples(batch: Batch, x_0: Float[Tensor, "b 1 h w"], path: Path) -> None:
    """One row a slice: source contrasts, predicted T1ce, true T1ce; robust z-scores from -4 to 6 as greys."""
    middle = batch.sources[:, :, batch.sources.shape[2] // 2]  # b s h w
    shown = np.concatenate([middle, x_0 * (batch.region > 0), batch.target], 1)  # b (s+2) h w
    tiles = np.flip(shown.transpose(0, 1, 3, 2), 2)  # anterior on top
    rows = [np.concatenate(list(row), 1) for row in tiles]
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, np.concatenate(rows, 0), cmap="gray", vmin=-4, vmax=6)
