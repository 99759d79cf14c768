"""One picture of a result: inputs, T1ce, enhancement and uncertainty in three planes."""

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from scipy import ndimage

from dsdiff.evaluation.enhancement import THRESHOLD
from dsdiff.preprocessing.normalize import Prepared
from dsdiff.preprocessing.planes import PLANES
from dsdiff.reporting.slice_views import (
    ENHANCEMENT_COLOURS,
    ENHANCEMENT_RANGE,
    SPREAD_COLOURS,
    SPREAD_RANGE,
    aspect,
    plain,
    plane,
    window,
)

LABELS = {"t1": "T1", "t2": "T2", "flair": "FLAIR", "t1ce": "T1ce"}
ENHANCEMENT_TITLE = f"enhancement (robust SD; scores count from {THRESHOLD:g})"
MARGIN = 4  # pixels about the brain
BACKGROUND, INK, FAINT, DOUBT = "#0b0d10", "#e8eaed", "#9aa0a6", "#fdd663"


def show_point(enhancement: Float[np.ndarray, "x y z"], prepared: Prepared) -> tuple[int, int, int]:
    """The voxel to show: the middle of the largest mass of lesion."""
    mass = lesion_mass(enhancement, prepared)
    if mass.max() <= 0:
        x, y, z = (round(float(c)) for c in ndimage.center_of_mass(prepared.brain))
    else:
        x, y, z = (int(i) for i in np.unravel_index(mass.argmax(), mass.shape))
    return x, y, z


def lesion_mass(enhancement: Float[np.ndarray, "x y z"], prepared: Prepared) -> Float[np.ndarray, "x y z"]:
    """How much lesion lies about each voxel, 8 mm or more below the brain's surface; zero elsewhere.

    A lesion is bright on FLAIR and, if it enhances, on the T1ce too; sinuses and plexus enhance and are dark on FLAIR.
    """
    brain, spacing = prepared.brain, prepared.spacing
    bright = np.clip(prepared.images["flair"], 0, 4) if "flair" in prepared.images else np.float32(1)
    deep = _depth(brain, spacing) > 8
    mass = bright * (np.float32(0.1) + np.clip(enhancement, 0, 4)) * brain
    return ndimage.gaussian_filter(mass, [5 / mm for mm in spacing], mode="constant") * deep


def _depth(brain: Bool[np.ndarray, "x y z"], spacing: tuple[float, float, float]) -> Float[np.ndarray, "x y z"]:
    """How far below the brain's surface each voxel lies, in mm, judged on a grid of 2 mm."""
    steps = [max(1, round(2 / mm)) for mm in spacing]
    coarse = np.pad(brain[tuple(slice(None, None, step) for step in steps)], 1)
    sampling = [step * mm for step, mm in zip(steps, spacing, strict=True)]
    depth = ndimage.distance_transform_edt(coarse, sampling=sampling).astype(np.float32)[1:-1, 1:-1, 1:-1]
    for axis, step in enumerate(steps):
        depth = depth.repeat(step, axis)
    x, y, z = brain.shape
    return depth[:x, :y, :z]


def draw(
    columns: dict[str, Float[np.ndarray, "x y z"]],
    enhancements: dict[str, tuple[Float[np.ndarray, "x y z"], Float[np.ndarray, "x y z"]]],
    prepared: Prepared,
    point: tuple[int, int, int],
    title: str,
    spread: Float[np.ndarray, "x y z"] | None = None,
    doubts: Sequence[str] = (),
) -> Figure:
    """A figure with a row for each plane.

    columns: title -> grey image. enhancements: title -> (grey image, enhancement drawn over it in colour).
    spread: standard deviation, a last column. All on the network's axes, robust z-scores. doubts: about the input.
    """
    names = [*columns, *enhancements, *(["uncertainty"] if spread is not None else [])]
    size = [(n + 2 * MARGIN) * mm for n, mm in zip(prepared.brain.shape, prepared.spacing, strict=True)]
    heights = [size[1], size[2], size[2]]
    width = max(size[0], size[1])
    figure = Figure(figsize=(2.1 * len(names) + 0.7, 2.1 * sum(heights) / width + 0.9), facecolor=BACKGROUND, dpi=110)
    axes = figure.subplots(3, len(names), squeeze=False, height_ratios=heights)
    figure.subplots_adjust(0.03, 0.075, 0.97, 0.89, 0.03, 0.03)
    greys = columns | {label: grey for label, (grey, _) in enhancements.items()}
    windows = {label: window(grey, prepared.brain) for label, grey in greys.items()}
    for row, name in zip(axes, PLANES, strict=True):
        cut = partial(plane, point=point, name=name, margin=MARGIN)
        inside = cut(prepared.brain)
        for axis, label in zip(row, names, strict=True):
            if label in greys:
                low, high = windows[label]
                image = np.where(inside, cut(greys[label]), low)
                axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="lanczos")
            else:
                assert spread is not None
                _show_map(axis, cut(spread), inside, SPREAD_COLOURS, *SPREAD_RANGE)
            if label in enhancements:
                over = cut(enhancements[label][1])
                _show_map(axis, over, inside & (over > ENHANCEMENT_RANGE[0]), ENHANCEMENT_COLOURS, *ENHANCEMENT_RANGE)
            axis.set_aspect(aspect(prepared.spacing, name))
            bare(axis)
        row[0].set_ylabel(name, color=FAINT, fontsize=8)
        if name != "sagittal" and prepared.grid.oriented:
            for x, side, align in ((0.02, "R", "left"), (0.98, "L", "right")):
                row[0].text(x, 0.97, side, color=FAINT, fontsize=8, transform=row[0].transAxes, va="top", ha=align)
    for axis, label in zip(axes[0], names, strict=True):
        axis.set_title(LABELS.get(label, label), color=INK, fontsize=10, pad=5)
    figure.text(0.03, 0.974, plain(title), color=INK, fontsize=11, va="center")
    doubt(figure, doubts, int(26 * len(names)), 0.03, 0.94)
    _legend(figure, spread is not None)
    return figure


def doubt(figure: Figure, doubts: Sequence[str], letters: int, x: float, y: float) -> None:
    """The first doubt about the input, in so many letters, below a picture's title; how many more there are."""
    if doubts:
        more = f" (and {len(doubts) - 1} more)" if len(doubts) > 1 else ""
        line = textwrap.shorten(f"Doubt: {doubts[0]}", letters, placeholder=" ...") + more
        figure.text(x, y, plain(line), color=DOUBT, fontsize=8.5, va="center")


def _show_map(
    axis: Axes,
    image: Float[np.ndarray, "h w"],
    seen: Bool[np.ndarray, "h w"],
    cmap: Colormap,
    low: float,
    high: float,
) -> None:
    colours = cmap.with_extremes(bad=(0, 0, 0, 0))
    shown = np.ma.masked_where(~seen, image)
    axis.imshow(shown, cmap=colours, vmin=low, vmax=high, alpha=0.85, interpolation="nearest")


def bare(axis: Axes) -> None:
    """An axis without ticks and frame."""
    axis.set_facecolor("black")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def _legend(figure: Figure, with_spread: bool) -> None:
    bars = [(0.38 if with_spread else 0.5, ENHANCEMENT_COLOURS, ENHANCEMENT_RANGE, ENHANCEMENT_TITLE)]
    if with_spread:
        bars.append((0.77, SPREAD_COLOURS, SPREAD_RANGE, "uncertainty (robust SD)"))
    for left, cmap, (low, high), text in bars:
        axis = figure.add_axes((left, 0.034, 0.09, 0.014))
        axis.imshow(np.linspace(0, 1, 64)[None], aspect="auto", cmap=cmap)
        bare(axis)
        figure.text(left - 0.005, 0.041, f"{low:g}", color=FAINT, fontsize=7, ha="right", va="center")
        figure.text(left + 0.095, 0.041, f"{high:g}  {text}", color=FAINT, fontsize=7, va="center")
    figure.text(
        0.03, 0.041, "Synthetic image. Research use, not for diagnosis.", color="#f28b82", fontsize=8, va="center"
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, the same bytes for the same picture."""
    figure.savefig(path, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
