"""The picture of a probe: every contrast, its shared and specific maps, and each rebuilt from swapped codes."""

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from dsdiff.inference.model import Model
from dsdiff.interpret.linear_probe import Seen, rebuilt
from dsdiff.reporting import preview
from dsdiff.reporting.slice_views import plain
from dsdiff.types import resized


@torch.inference_mode()
def draw(seen: Seen, model: Model, title: str) -> Figure:
    """One row a contrast: as it is, the first principal component of its maps, and with the looks of each contrast."""
    cond, names = seen.middle, [preview.LABELS.get(name, name) for name in model.contrasts]
    assert cond.encoded is not None
    images = cond.known[0, :, cond.sources.shape[2] // 2]
    size = (images.shape[-2], images.shape[-1])
    shared, specific = (component(maps[0][0], size) for maps in (cond.encoded.shared, cond.encoded.specific))
    columns = ["as acquired", "shared map", "specific map"]
    if model.network.conditioner.decoder is not None:
        columns += [f"looks of {name}" for name in names]
    figure = Figure(
        figsize=(1.9 * len(columns), 1.9 * size[1] / size[0] * len(names) + 0.6), facecolor=preview.BACKGROUND
    )
    axes = figure.subplots(len(names), len(columns), squeeze=False)
    figure.subplots_adjust(0.03, 0.02, 0.99, 0.86, 0.03, 0.03)
    for i, row in enumerate(axes):
        shown = [images[i].cpu().numpy(), shared[i], specific[i]]
        shown += [rebuilt(cond, model, i, j).cpu().numpy() for j in range(len(columns) - 3)]
        ranges = [(-3, 4), _range(shared), _range(specific), *[(-3, 4)] * (len(columns) - 3)]
        for axis, image, (low, high) in zip(row, shown, ranges, strict=True):
            axis.imshow(image[::-1].T[::-1], cmap="gray", vmin=low, vmax=high)
            preview.bare(axis)
        row[0].set_ylabel(names[i], color=preview.FAINT, fontsize=9)
    for axis, label in zip(axes[0], columns, strict=True):
        axis.set_title(label, color=preview.INK, fontsize=9, pad=4)
    figure.text(0.03, 0.95, plain(title), color=preview.INK, fontsize=10, va="center")
    return figure


def component(maps: Float[Tensor, "s c _ _"], size: tuple[int, int]) -> Float[np.ndarray, "s h w"]:
    """The first principal component of the maps' channels, the same for all contrasts."""
    pixels = maps.float().movedim(1, -1)  # s h w c
    centred = (pixels - pixels.mean((0, 1, 2))).cpu()
    _, _, directions = np.linalg.svd(centred.reshape(-1, centred.shape[-1]).numpy(), full_matrices=False)
    found = maps.new_tensor(centred.numpy() @ directions[0])
    return resized(found[:, None], size)[:, 0].cpu().numpy()


def _range(maps: Float[np.ndarray, "s h w"]) -> tuple[float, float]:
    low, high = np.percentile(maps, (1, 99))
    return float(low), float(high)
