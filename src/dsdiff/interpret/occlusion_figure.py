"""Figure of an occlusion analysis: inputs and outputs, contribution of each contrast, further inputs of the network."""

from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Shaped
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dsdiff.inference.model import Model
from dsdiff.interpret.linear_probe_figure import principal_component
from dsdiff.interpret.occlusion import Explanation, condition_at, paste_slice
from dsdiff.reporting import figures, preview, slice_views
from dsdiff.types import Condition
from dsdiff.volume import Slice2D

GRAY: Colormap = matplotlib.colormaps["gray"]
GRAY_RANGE = (-3.0, 4.0)  # robust z-scores of the gray image under a color map
CONTRIBUTION_COLORMAP: Colormap = matplotlib.colormaps["RdBu_r"]
CONTRIBUTION_RANGE = (-3.0, 3.0)  # robust standard deviations
MIN_CONTRIBUTION = 0.4  # robust standard deviations; smaller contributions are transparent
STD_PERCENTILE = 99.5  # of the brain; the upper end of the color map
MARGIN = 3  # pixels around the brain
BAR_COLORS = ("#8ab4f8", "#fdd663", "#81c995", "#ff8bcb")  # one for each contrast
BAR_DISTANCE, BAR_WIDTH = 0.26, 0.23
MIN_SHARE, MAX_SHARE = -100, 150  # percent; the range of the bars
MIN_COLUMNS = 7
DISCLAIMER_COLOR = "#f28b82"

OneSlice = Shaped[np.ndarray, "x y 1"]


@dataclass(frozen=True)
class Panel:
    """One image of the figure.

    Attributes:
        title: Its title.
        gray: Gray image, robust z-scores.
        overlay: Map that is shown over it in color, NaN where transparent; None for none.
        colormap: Colors of the overlay.
        limits: Range of the overlay's colors; of the gray image without an overlay.
    """

    title: str
    gray: OneSlice
    overlay: OneSlice | None
    colormap: Colormap
    limits: tuple[float, float]


def plot_explanation(explanation: Explanation, model: Model, title: str) -> Figure:
    """Plot the axial slice with most of the first enhancement, in three rows.

    Args:
        explanation: What each contrast contributes.
        model: The model.
        title: Title of the figure.

    Returns:
        The figure.
    """
    case = explanation.result.case
    if explanation.enhancements:
        point = explanation.enhancements[0].point
    else:
        point = preview.select_point(explanation.enhancement, case)
    z = point[2]

    rows = [
        _image_panels(explanation, model, z),
        _contribution_panels(explanation, z),
        _input_panels(explanation, model, z),
    ]
    n_columns = max(MIN_COLUMNS, *map(len, rows))
    figure = _new_figure(case.brain.shape, n_columns)
    grid = figure.add_gridspec(3, n_columns, left=0.01, right=0.99, top=0.905, bottom=0.05, wspace=0.04, hspace=0.13)

    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            axis = figure.add_subplot(grid[i, j])
            _show_panel(axis, panel, case.brain[..., z, None], slice_views.voxel_aspect(case.spacing, "axial"))
            if i == j == 0 and explanation.geometry.has_orientation:
                _label_sides(axis)
            if panel.title == "enhancement":
                _number_enhancements(axis, explanation, z)
    if explanation.enhancements:
        _plot_shares(figure.add_subplot(grid[1, len(rows[1]) + 1 :]), explanation)

    figure.text(0.01, 0.974, figures.escape_math(title), color=figures.INK, fontsize=11, va="center")
    figures.add_warning(figure, explanation.result.warnings, 22 * n_columns, 0.01, 0.945)
    _add_legend(figure)
    return figure


def _new_figure(shape: tuple[int, ...], n_columns: int) -> Figure:
    width, height, _ = shape
    aspect = (height + 2 * MARGIN) / (width + 2 * MARGIN)
    return figures.new_figure(1.75 * n_columns, 3 * (1.75 * aspect + 0.25) + 0.75)


def _add_legend(figure: Figure) -> None:
    low, high = slice_views.ENHANCEMENT_RANGE
    text = (
        f"Enhancement: {low:g} to {high:g} robust SD. Red: enhancement lost without this input; blue: added without it "
        f"({MIN_CONTRIBUTION:g} to {CONTRIBUTION_RANGE[1]:g} SD). Synthetic image. Research use, not for diagnosis."
    )
    figure.text(0.01, 0.02, text, color=DISCLAIMER_COLOR, fontsize=8, va="center")


def _contrast_label(contrast: str) -> str:
    return preview.CONTRAST_LABELS.get(contrast, contrast)


def _image_panels(explanation: Explanation, model: Model, z: int) -> list[Panel]:
    """Inputs, synthetic T1ce, enhancement and uncertainty."""
    result = explanation.result
    case = result.case
    images = {_contrast_label(name): case.images[name] for name in model.contrasts if name in case.images}
    images["synthetic T1ce"] = result.z

    panels = []
    for label, image in images.items():
        panels.append(Panel(label, image[..., z, None], None, GRAY, slice_views.gray_window(image, case.brain)))

    t1ce, limits = result.z[..., z, None], slice_views.ENHANCEMENT_RANGE
    overlay = np.where(explanation.enhancement > limits[0], explanation.enhancement, np.nan)[..., z, None]
    panels.append(Panel("enhancement", t1ce, overlay, slice_views.ENHANCEMENT_COLORMAP, limits))

    if explanation.std is not None:
        std = np.where(case.brain, explanation.std, np.nan)
        high = float(np.nanpercentile(std, STD_PERCENTILE))
        title = f"uncertainty (SD to {high:.2g})"
        panels.append(Panel(title, t1ce, std[..., z, None], slice_views.UNCERTAINTY_COLORMAP, (0.0, high)))
    return panels


def _contribution_panels(explanation: Explanation, z: int) -> list[Panel]:
    """The enhancement that is lost without each contrast."""
    result = explanation.result
    panels = []
    for contrast, contribution in explanation.contribution_maps.items():
        is_shown = result.case.brain & (np.abs(contribution) > MIN_CONTRIBUTION)
        overlay = np.where(is_shown, contribution, np.nan)[..., z, None]
        title = f"{_contrast_label(contrast)} {explanation.occlusion_methods[contrast]}"
        panels.append(Panel(title, result.z[..., z, None], overlay, CONTRIBUTION_COLORMAP, CONTRIBUTION_RANGE))
    return panels


def _input_panels(explanation: Explanation, model: Model, z: int) -> list[Panel]:
    """What the network sees besides the contrasts: edges, shared and specific features, style."""
    cond, box = condition_at(explanation.result, model, z)
    brain = explanation.result.case.brain[..., z, None]
    panels = []
    for title, image in _condition_maps(cond, model):
        inside = np.where(brain, paste_slice(image, box, brain.shape), np.nan)
        low, high = (float(percentile) for percentile in np.nanpercentile(inside, (1, 99)))
        panels.append(Panel(title, np.nan_to_num(inside, nan=low), None, GRAY, (low, high)))
    return panels


def _condition_maps(cond: Condition, model: Model) -> Iterator[tuple[str, Slice2D]]:
    labels = [_contrast_label(contrast) for contrast in model.contrasts]
    present = [i for i in range(len(labels)) if cond.present[0, i]]
    size = (cond.sources.shape[-2], cond.sources.shape[-1])

    if cond.edges is not None:
        for i in present:
            yield f"edges of {labels[i]}", cond.edges[0, i].float().cpu().numpy()

    if cond.encoder_features is not None:
        yield "shared", principal_component(cond.encoder_features.shared_mean[0], size)[0]
        specific = principal_component(cond.encoder_features.specific[0][0][present], size)
        for image, i in zip(specific, present, strict=True):
            yield f"specific to {labels[i]}", image

    if cond.style is not None:
        yield "style image", cond.style[0, 0].float().cpu().numpy()


def _show_panel(axis: Axes, panel: Panel, brain: OneSlice, aspect: float) -> None:
    low, high = panel.limits if panel.overlay is None else GRAY_RANGE
    inside = _axial_view(brain)
    gray = np.where(inside, _axial_view(panel.gray), low)
    axis.imshow(gray, cmap="gray", vmin=low, vmax=high, interpolation="lanczos")

    if panel.overlay is not None:
        overlay = np.ma.masked_invalid(np.where(inside, _axial_view(panel.overlay), np.nan))
        low, high = panel.limits
        axis.imshow(overlay, cmap=panel.colormap, vmin=low, vmax=high, alpha=0.85, interpolation="nearest")

    axis.set_title(panel.title, color=figures.INK, fontsize=9, pad=3)
    axis.set_aspect(aspect)
    figures.hide_axis(axis)


def _axial_view(image: OneSlice) -> Shaped[np.ndarray, "h w"]:
    return slice_views.slice_view(image, (0, 0, 0), "axial", MARGIN)


def _label_sides(axis: Axes) -> None:
    for x, side, align in ((0.03, "R", "left"), (0.97, "L", "right")):
        axis.text(x, 0.97, side, color=figures.MUTED, fontsize=8, transform=axis.transAxes, va="top", ha=align)


def _number_enhancements(axis: Axes, explanation: Explanation, z: int) -> None:
    """Print the number of every enhancement whose point lies in the slice."""
    width, height, _ = explanation.enhancement.shape
    for number, enhancement in enumerate(explanation.enhancements, 1):
        x, y, point_z = enhancement.point
        if point_z != z:
            continue
        axis.annotate(
            str(number),
            (MARGIN + width - 1 - x, MARGIN + height - 1 - y),
            (14, -14),
            textcoords="offset points",
            color=figures.INK,
            fontsize=12,
            weight="bold",
            path_effects=[withStroke(linewidth=2.5, foreground=figures.BACKGROUND)],
            arrowprops={"arrowstyle": "-", "color": figures.INK, "linewidth": 1.2},
        )


def _plot_shares(axis: Axes, explanation: Explanation) -> None:
    """Plot what each contrast contributes to each enhancement, in percent of the enhancement's mean."""
    contrasts = list(explanation.contribution_maps)
    row_labels = []
    for i, enhancement in enumerate(explanation.enhancements):
        row_labels.append(f"{i + 1}: {enhancement.ml:.1f} ml, mostly {_contrast_label(enhancement.driver)}")
        for j, contrast in enumerate(contrasts):
            y = i + (j - (len(contrasts) - 1) / 2) * BAR_DISTANCE
            label = _contrast_label(contrast) if i == 0 else None
            share = float(np.clip(100 * enhancement.contributions[contrast], MIN_SHARE, MAX_SHARE))
            axis.barh(y, share, BAR_WIDTH, color=BAR_COLORS[j % len(BAR_COLORS)], label=label)

    position = axis.get_position()  # leaves room for the tick labels below
    axis.set_position((position.x0, position.y0 + 0.03, position.width, position.height - 0.03))
    axis.set_yticks(range(len(row_labels)), row_labels, fontsize=8, color=figures.INK)
    axis.invert_yaxis()
    axis.axvline(0, color=figures.MUTED, linewidth=0.8)
    axis.tick_params(colors=figures.MUTED, labelsize=8, labelcolor=figures.INK)
    axis.set_facecolor(figures.BACKGROUND)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(figures.MUTED)

    title = "% lost without the contrast (sums may exceed 100)"
    axis.set_title(title, color=figures.INK, fontsize=9, pad=3, loc="left")
    axis.legend(
        fontsize=8,
        labelcolor=figures.INK,
        frameon=False,
        ncols=len(contrasts),
        loc="upper right",
        bbox_to_anchor=(1, 1.22),
    )
