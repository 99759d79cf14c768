"""Sample grid of a run: the same slices at each validation, to watch the training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dsdiff.data.batch_sampling import Batch
from dsdiff.preprocessing.planes import Plane
from dsdiff.reporting import figures

GRAY_RANGE = (-4.0, 6.0)  # robust z-scores shown black and white
DPI = 100
HEADER_PIXELS = 22  # for the names of the columns


def save_sample_grid(
    batch: Batch, x_0: Float[Tensor, "b 1 h w"], contrasts: Sequence[str], path: Path, plane: Plane = "axial"
) -> None:
    """Save one row per slice: source contrasts, predicted T1ce, acquired T1ce.

    The grid is that of the training, anterior or superior on top, black outside the brain. Each row has the name of its
    case.

    Args:
        batch: The slices; of a context stack the middle one is shown.
        x_0: The predicted T1ce, as robust z-scores.
        contrasts: Names of the source contrasts.
        path: The PNG file to write; its folder is made.
        plane: Plane of the slices.
    """
    center = batch.sources[:, :, batch.sources.shape[2] // 2]  # b s h w
    images = np.concatenate([center, x_0, batch.target], 1)  # b (s+2) h w
    images = np.where(batch.region.numpy() > 0, images, GRAY_RANGE[0])
    upright = images if plane == "sagittal" else images.transpose(0, 1, 3, 2)  # sagittal slices are (z, y)
    tiles = np.flip(upright, 2)
    tile_height, tile_width = tiles.shape[2:]
    grid = np.concatenate([np.concatenate(list(row), 1) for row in tiles], 0)
    grid_height, grid_width = grid.shape

    figure = figures.new_figure(grid_width / DPI, (grid_height + HEADER_PIXELS) / DPI, "black", DPI)
    axes = figure.add_axes((0, 0, 1, grid_height / (grid_height + HEADER_PIXELS)))
    axes.imshow(grid, "gray", vmin=GRAY_RANGE[0], vmax=GRAY_RANGE[1], aspect="auto")
    axes.set_axis_off()

    for column, title in enumerate([*contrasts, "predicted", "acquired"]):
        x = (column + 0.5) * tile_width
        axes.text(x, -HEADER_PIXELS / 2, title, color="white", size=8, ha="center", va="center")
    for row, name in enumerate(batch.case_names):
        axes.text(2, row * tile_height + 2, figures.escape_math(name), color="white", size=8, va="top")
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.save_png(figure, path)
