"""The picture of an explanation: what went in and came out, what enhancement is owed to, what the network saw."""

from collections.abc import Iterator

import matplotlib
import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dsdiff.inference.model import Model
from dsdiff.interpret.linear_probe_figure import component
from dsdiff.interpret.occlusion import Explanation, condition_at, on_grid
from dsdiff.reporting import preview
from dsdiff.reporting.slice_views import plain
from dsdiff.types import Condition

LOST: Colormap = matplotlib.colormaps["RdBu_r"]
LOST_RANGE, LEAST_LOST = (-3.0, 3.0), 0.4  # robust SD; what is smaller is not drawn
MARGIN = 3  # pixels about the brain
COLOURS = ("#8ab4f8", "#fdd663", "#81c995", "#ff8bcb")  # of the contrasts' bars
Image = Shaped[np.ndarray, "x y _"]
Panel = tuple[str, Image, Image | None, Colormap, tuple[float, float]]  # title, grey, over it, its colours and range


def draw(told: Explanation, model: Model, title: str) -> Figure:
    """The axial slice with most of the first enhancement, in three rows."""
    prepared = told.result.prepared
    point = told.found[0].point if told.found else preview.show_point(told.enhancement, prepared)
    rows = [_images(told, model, point[2]), _changes(told, point[2]), _seen(told, model, point[2])]
    columns = max(7, *map(len, rows))
    width, height, _ = prepared.brain.shape
    tall = (height + 2 * MARGIN) / (width + 2 * MARGIN)
    figure = Figure(figsize=(1.75 * columns, 3 * (1.75 * tall + 0.25) + 0.75), facecolor=preview.BACKGROUND, dpi=110)
    grid = figure.add_gridspec(3, columns, left=0.01, right=0.99, top=0.905, bottom=0.05, wspace=0.04, hspace=0.13)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            axis = figure.add_subplot(grid[i, j])
            _show(axis, panel, prepared.brain[..., point[2], None], preview.aspect(prepared.spacing, "axial"))
            if i == j == 0 and prepared.grid.oriented:
                _sides(axis)
            if panel[0] == "enhancement":
                _numbers(axis, told, point[2])
    if told.found:
        _bars(figure.add_subplot(grid[1, len(rows[1]) + 1 :]), told)
    figure.text(0.01, 0.974, plain(title), color=preview.INK, fontsize=11, va="center")
    preview.doubt(figure, told.result.warnings, 22 * columns, 0.01, 0.945)
    low, high = preview.ENHANCEMENT_RANGE
    figure.text(
        0.01, 0.02,
        f"Enhancement: {low:g} to {high:g} robust SD. Red: what of it goes when the contrast is taken away; blue: what "
        "comes (0.4 to 3 SD). Synthetic image. Research use, not for diagnosis.",
        color="#f28b82", fontsize=8, va="center",
    )  # fmt: skip
    return figure


def _images(told: Explanation, model: Model, z: int) -> list[Panel]:
    """What went in and what came out."""
    result, grey = told.result, matplotlib.colormaps["gray"]
    images, brain = result.prepared.images, result.prepared.brain
    made = result.z[..., z, None]
    shown = [(preview.LABELS.get(c, c), images[c]) for c in model.contrasts if c in images]
    panels: list[Panel] = []
    for label, image in [*shown, ("synthetic T1ce", result.z)]:
        panels.append((label, image[..., z, None], None, grey, preview.window(image, brain)))
    enhancing = np.where(told.enhancement > preview.ENHANCEMENT_RANGE[0], told.enhancement, np.nan)[..., z, None]
    panels.append(("enhancement", made, enhancing, preview.ENHANCEMENT_COLOURS, preview.ENHANCEMENT_RANGE))
    if told.spread is not None:
        spread = np.where(brain, told.spread, np.nan)[..., z, None]
        top = float(np.nanpercentile(np.where(brain, told.spread, np.nan), 99.5))
        panels.append((f"uncertainty (SD to {top:.2g})", made, spread, preview.SPREAD_COLOURS, (0.0, top)))
    return panels


def _changes(told: Explanation, z: int) -> list[Panel]:
    """What of the enhancement goes without each contrast."""
    grey = told.result.z[..., z, None]
    panels: list[Panel] = []
    for contrast, lost in told.lost.items():
        seen = np.where(told.result.prepared.brain & (np.abs(lost) > LEAST_LOST), lost, np.nan)[..., z, None]
        label = f"{preview.LABELS.get(contrast, contrast)} {told.taken[contrast]}"
        panels.append((label, grey, seen, LOST, LOST_RANGE))
    return panels


def _seen(told: Explanation, model: Model, z: int) -> list[Panel]:
    """What the network is told beside the sources: structure, what contrasts share and what is their own, style."""
    prepared = told.result.prepared
    cond, box = condition_at(told.result, model, z)
    brain = prepared.brain[..., z, None]
    panels: list[Panel] = []
    for label, image in _maps(cond, model):
        whole = np.where(brain, on_grid(image, box, brain.shape), np.nan)
        low, high = np.nanpercentile(whole, (1, 99))
        grey = matplotlib.colormaps["gray"]
        panels.append((label, np.nan_to_num(whole, nan=float(low)), None, grey, (float(low), float(high))))
    return panels


def _maps(cond: Condition, model: Model) -> Iterator[tuple[str, Float[np.ndarray, "h w"]]]:
    names = [preview.LABELS.get(contrast, contrast) for contrast in model.contrasts]
    there = [i for i in range(len(names)) if cond.present[0, i]]
    size = (cond.sources.shape[-2], cond.sources.shape[-1])
    if cond.edges is not None:
        for i in there:
            yield f"structure of {names[i]}", cond.edges[0, i].float().cpu().numpy()
    if cond.encoded is not None:
        yield "shared", component(cond.encoded.common[0], size)[0]
        own = component(cond.encoded.specific[0][0][there], size)
        for image, i in zip(own, there, strict=True):
            yield f"specific to {names[i]}", image
    if cond.style is not None:
        yield "style told", cond.style[0, 0].float().cpu().numpy()


def _show(axis: Axes, panel: Panel, brain: Image, aspect: float) -> None:
    label, grey, over, colours, (low, high) = panel
    window = (low, high) if over is None else (-3.0, 4.0)
    inside = _axial(brain)
    axis.imshow(
        np.where(inside, _axial(grey), window[0]), cmap="gray", vmin=window[0], vmax=window[1], interpolation="lanczos"
    )
    if over is not None:
        seen = np.ma.masked_invalid(np.where(inside, _axial(over), np.nan))
        axis.imshow(seen, cmap=colours, vmin=low, vmax=high, alpha=0.85, interpolation="nearest")
    axis.set_title(label, color=preview.INK, fontsize=9, pad=3)
    axis.set_aspect(aspect)
    preview.bare(axis)


def _axial(volume: Image) -> Shaped[np.ndarray, "w h"]:
    return preview.plane(volume, (0, 0, 0), "axial", MARGIN)


def _sides(axis: Axes) -> None:
    for x, side, align in ((0.03, "R", "left"), (0.97, "L", "right")):
        axis.text(x, 0.97, side, color=preview.FAINT, fontsize=8, transform=axis.transAxes, va="top", ha=align)


def _numbers(axis: Axes, told: Explanation, z: int) -> None:
    """The number of every enhancement that lies in the slice."""
    width, height, _ = told.enhancement.shape
    for number, found in enumerate(told.found, 1):
        if found.point[2] == z:
            x, y = MARGIN + width - 1 - found.point[0], MARGIN + height - 1 - found.point[1]
            axis.annotate(
                str(number), (x, y), (14, -14), textcoords="offset points", color=preview.INK, fontsize=12,
                weight="bold",
                path_effects=[withStroke(linewidth=2.5, foreground=preview.BACKGROUND)],
                arrowprops={"arrowstyle": "-", "color": preview.INK, "linewidth": 1.2},
            )  # fmt: skip


def _bars(axis: Axes, told: Explanation) -> None:
    """What each enhancement owes to every contrast, in per cent of its mean."""
    contrasts = list(told.lost)
    for i, found in enumerate(told.found):
        for j, contrast in enumerate(contrasts):
            place = i + (j - (len(contrasts) - 1) / 2) * 0.26
            label = preview.LABELS.get(contrast, contrast) if i == 0 else None
            share = float(np.clip(100 * found.owed[contrast], -100, 150))
            axis.barh(place, share, 0.23, color=COLOURS[j % len(COLOURS)], label=label)
    said = [
        f"{i + 1}: {found.ml:.1f} ml, mostly {preview.LABELS.get(found.driver, found.driver)}"
        for i, found in enumerate(told.found)
    ]
    place_of = axis.get_position()  # room for the numbers below
    axis.set_position((place_of.x0, place_of.y0 + 0.03, place_of.width, place_of.height - 0.03))
    axis.set_yticks(range(len(said)), said, fontsize=8, color=preview.INK)
    axis.invert_yaxis()
    axis.axvline(0, color=preview.FAINT, linewidth=0.8)
    axis.tick_params(colors=preview.FAINT, labelsize=8, labelcolor=preview.INK)
    axis.set_facecolor(preview.BACKGROUND)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(preview.FAINT)
    axis.set_title(
        "% that goes without the contrast (sums may pass 100)", color=preview.INK, fontsize=9, pad=3, loc="left"
    )
    axis.legend(
        fontsize=8,
        labelcolor=preview.INK,
        frameon=False,
        ncols=len(contrasts),
        loc="upper right",
        bbox_to_anchor=(1, 1.22),
    )
