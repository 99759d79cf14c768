"""Figure of a probe: every contrast, its shared and specific features, and images decoded from swapped features."""

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from dsdiff.inference.model import Model
from dsdiff.interpret.linear_probe import ProbeCodes, decode_swap
from dsdiff.reporting import figures, preview
from dsdiff.types import Condition, resize_maps
from dsdiff.volume import Slice2D

GRAY_RANGE = (-3.0, 4.0)  # robust z-scores
PANEL_INCHES = 1.9


@torch.inference_mode()
def plot_probe(codes: ProbeCodes, model: Model, title: str) -> Figure:
    """Plot the middle slice: one row for each contrast.

    A row shows the acquired image, the first principal component of its features, and its anatomy with the look of
    each contrast.

    Args:
        codes: Features of one patient.
        model: The model that encoded them.
        title: Title of the figure.

    Returns:
        The figure.
    """
    labels = [preview.CONTRAST_LABELS.get(contrast, contrast) for contrast in model.contrasts]
    titles = ["as acquired", "shared features", "specific features"]
    if model.network.conditioner.decoder is not None:
        titles += [f"look of {label}" for label in labels]
    rows = _panel_rows(codes.middle_cond, model)

    height, width = rows[0][0][0].shape
    figure = figures.new_figure(PANEL_INCHES * len(titles), PANEL_INCHES * width / height * len(rows) + 0.6, dpi=100)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    figure.subplots_adjust(0.03, 0.02, 0.99, 0.86, 0.03, 0.03)

    for axis_row, row, label in zip(axes, rows, labels, strict=True):
        for axis, (image, (low, high)) in zip(axis_row, row, strict=True):
            axis.imshow(image[::-1].T[::-1], cmap="gray", vmin=low, vmax=high)
            figures.hide_axis(axis)
        axis_row[0].set_ylabel(label, color=figures.MUTED, fontsize=9)
    for axis, panel_title in zip(axes[0], titles, strict=True):
        axis.set_title(panel_title, color=figures.INK, fontsize=9, pad=4)

    figure.text(0.03, 0.95, figures.escape_math(title), color=figures.INK, fontsize=10, va="center")
    return figure


def _panel_rows(cond: Condition, model: Model) -> list[list[tuple[Slice2D, tuple[float, float]]]]:
    """For each contrast its images with their gray ranges."""
    assert cond.encoder_features is not None
    images = cond.masked_sources[0, :, cond.sources.shape[2] // 2]  # s h w
    size = (images.shape[-2], images.shape[-1])
    shared = principal_component(cond.encoder_features.shared[0][0], size)
    specific = principal_component(cond.encoder_features.specific[0][0], size)
    has_decoder = model.network.conditioner.decoder is not None

    rows = []
    for i in range(len(images)):
        row = [
            (images[i].cpu().numpy(), GRAY_RANGE),
            (shared[i], _percentile_range(shared)),
            (specific[i], _percentile_range(specific)),
        ]
        for j in range(len(images)) if has_decoder else ():
            row.append((decode_swap(cond, model, i, j).cpu().numpy(), GRAY_RANGE))
        rows.append(row)
    return rows


def principal_component(maps: Float[Tensor, "s c _ _"], size: tuple[int, int]) -> Float[np.ndarray, "s h w"]:
    """Project feature maps on the first principal component of their channels, which all contrasts share.

    Args:
        maps: Features of each contrast.
        size: Height and width of the result.

    Returns:
        One image for each contrast.
    """
    pixels = maps.float().movedim(1, -1)  # s h w c
    centered = (pixels - pixels.mean((0, 1, 2))).cpu()
    _, _, directions = np.linalg.svd(centered.reshape(-1, centered.shape[-1]).numpy(), full_matrices=False)
    projection = maps.new_tensor(centered.numpy() @ directions[0])  # s h w
    return resize_maps(projection[:, None], size)[:, 0].cpu().numpy()


def _percentile_range(maps: Float[np.ndarray, "s h w"]) -> tuple[float, float]:
    low, high = np.percentile(maps, (1, 99))
    return float(low), float(high)
