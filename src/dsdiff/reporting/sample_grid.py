"""Pictures of a run: fixed slices, to be looked at while it trains."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from dsdiff.data.batch_sampling import Batch
from dsdiff.preprocessing.planes import Plane
from dsdiff.reporting.slice_views import plain

BLACK, WHITE = -4.0, 6.0  # robust z-scores
DPI, HEAD = 100, 22  # pixels to the inch; pixels for the names of the columns


def save_samples(
    batch: Batch, x_0: Float[Tensor, "b 1 h w"], contrasts: Sequence[str], path: Path, plane: Plane = "axial"
) -> None:
    """One row a slice of a plane, named by its patient: source contrasts, predicted T1ce, acquired T1ce, in the grid
    that is trained on, anterior or superior on top; greys from BLACK to WHITE, black outside the brain.
    """
    middle = batch.sources[:, :, batch.sources.shape[2] // 2]  # b s h w
    shown = np.concatenate([middle, x_0, batch.target], 1)  # b (s+2) h w
    shown = np.where(batch.region.numpy() > 0, shown, BLACK)
    tiles = np.flip(shown if plane == "sagittal" else shown.transpose(0, 1, 3, 2), 2)  # its slices are z y
    grid = np.concatenate([np.concatenate(list(row), 1) for row in tiles], 0)
    height, width = tiles.shape[2:]
    figure = Figure((grid.shape[1] / DPI, (grid.shape[0] + HEAD) / DPI), DPI, facecolor="black")
    axes = figure.add_axes((0, 0, 1, grid.shape[0] / (grid.shape[0] + HEAD)))
    axes.imshow(grid, "gray", vmin=BLACK, vmax=WHITE, aspect="auto")
    axes.set_axis_off()
    for number, name in enumerate([*contrasts, "predicted", "acquired"]):
        axes.text((number + 0.5) * width, -HEAD / 2, name, color="white", size=8, ha="center", va="center")
    for number, case in enumerate(batch.cases):
        axes.text(2, number * height + 2, plain(case), color="white", size=8, va="top")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
