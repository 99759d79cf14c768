"""Preview image of a synthesis result: inputs, T1ce, enhancement and uncertainty in three planes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from scipy import ndimage

from dsdiff.evaluation.enhancement import ENHANCEMENT_THRESHOLD
from dsdiff.preprocessing.normalize import PreprocessedCase
from dsdiff.preprocessing.planes import PLANES
from dsdiff.reporting import figures, slice_views
from dsdiff.reporting.slice_views import ENHANCEMENT_COLORMAP, ENHANCEMENT_RANGE, UNCERTAINTY_COLORMAP
from dsdiff.volume import Mask3D, Slice2D, Volume3D, VoxelSpacing

CONTRAST_LABELS = {"t1": "T1", "t2": "T2", "flair": "FLAIR", "t1ce": "T1ce"}
ENHANCEMENT_TITLE = f"enhancement (robust SD; scores count from {ENHANCEMENT_THRESHOLD:g})"
UNCERTAINTY_TITLE = "uncertainty"
DISCLAIMER, DISCLAIMER_COLOR = "Synthetic image. Research use, not for diagnosis.", "#f28b82"
MARGIN = 4  # pixels around the brain
MIN_LESION_DEPTH_MM = 8  # below the brain's surface: vessels and meninges enhance above it
LESION_SMOOTHING_MM = 5
DEPTH_GRID_MM = 2  # the depth is measured on a grid about this coarse, which is fast


@dataclass(frozen=True)
class PreviewImages:
    """The columns of a preview. All images are robust z-scores on the grid of the preprocessed case.

    Attributes:
        gray: Column title -> gray image.
        overlays: Column title -> gray image, and the enhancement that is shown over it in color.
        std: Standard deviation of the synthetic T1ce; adds a last column.
        has_orientation: Whether left and right are known, so that they can be labeled.
    """

    gray: dict[str, Volume3D]
    overlays: dict[str, tuple[Volume3D, Volume3D]]
    std: Volume3D | None = None
    has_orientation: bool = True


def select_point(enhancement: Volume3D, case: PreprocessedCase) -> tuple[int, int, int]:
    """Select the voxel whose three slices the preview shows.

    Args:
        enhancement: T1ce minus source image, in robust standard deviations.
        case: The preprocessed case.

    Returns:
        The voxel (x, y, z) with the largest `lesion_mass`; the center of the brain if there is no lesion.
    """
    mass = lesion_mass(enhancement, case)
    if mass.max() <= 0:
        x, y, z = (round(float(coordinate)) for coordinate in ndimage.center_of_mass(case.brain))
    else:
        x, y, z = (int(index) for index in np.unravel_index(mass.argmax(), mass.shape))
    return x, y, z


def lesion_mass(enhancement: Volume3D, case: PreprocessedCase) -> Volume3D:
    """Measure how much lesion surrounds each voxel.

    A lesion is bright on FLAIR and, if it enhances, on T1ce. Venous sinuses and choroid plexus enhance too, but are
    dark on FLAIR.

    Args:
        enhancement: T1ce minus source image, in robust standard deviations.
        case: The preprocessed case.

    Returns:
        FLAIR times enhancement, smoothed; zero within 8 mm of the brain's surface.
    """
    bright = np.clip(case.images["flair"], 0, 4) if "flair" in case.images else np.float32(1)
    is_deep = _depth_mm(case.brain, case.spacing) > MIN_LESION_DEPTH_MM
    mass = bright * (np.float32(0.1) + np.clip(enhancement, 0, 4)) * case.brain
    sigma = [LESION_SMOOTHING_MM / mm for mm in case.spacing]
    return ndimage.gaussian_filter(mass, sigma, mode="constant") * is_deep


def _depth_mm(brain: Mask3D, spacing: VoxelSpacing) -> Volume3D:
    """Return the distance of each voxel from the brain's surface, measured on a grid of about 2 mm."""
    steps = [max(1, round(DEPTH_GRID_MM / mm)) for mm in spacing]
    coarse = np.pad(brain[tuple(slice(None, None, step) for step in steps)], 1)
    sampling = [step * mm for step, mm in zip(steps, spacing, strict=True)]

    depth = ndimage.distance_transform_edt(coarse, sampling=sampling).astype(np.float32)[1:-1, 1:-1, 1:-1]
    for axis, step in enumerate(steps):
        depth = depth.repeat(step, axis)
    x, y, z = brain.shape
    return depth[:x, :y, :z]


def plot_preview(
    images: PreviewImages,
    case: PreprocessedCase,
    point: tuple[int, int, int],
    title: str,
    warnings: Sequence[str] = (),
) -> Figure:
    """Plot the preview: one row per plane, one column per image.

    Args:
        images: The columns.
        case: The preprocessed case, for brain mask and voxel size.
        point: Voxel (x, y, z) through which the slices are cut.
        title: Title of the figure.
        warnings: Warnings about the input; the first one is printed below the title.

    Returns:
        The figure.
    """
    titles = [*images.gray, *images.overlays, *([UNCERTAINTY_TITLE] if images.std is not None else [])]
    figure, axes = _create_axes(len(titles), case)

    gray = images.gray | {title: image for title, (image, _) in images.overlays.items()}
    windows = {title: slice_views.gray_window(image, case.brain) for title, image in gray.items()}

    for row, plane in zip(axes, PLANES, strict=True):
        brain = slice_views.slice_view(case.brain, point, plane, MARGIN)
        for axis, column in zip(row, titles, strict=True):
            if column in gray:
                _show_gray(axis, slice_views.slice_view(gray[column], point, plane, MARGIN), brain, windows[column])
            if column in images.overlays:
                enhancement = slice_views.slice_view(images.overlays[column][1], point, plane, MARGIN)
                is_shown = brain & (enhancement > ENHANCEMENT_RANGE[0])
                _show_map(axis, enhancement, is_shown, ENHANCEMENT_COLORMAP, ENHANCEMENT_RANGE)
            if column not in gray and images.std is not None:
                std = slice_views.slice_view(images.std, point, plane, MARGIN)
                _show_map(axis, std, brain, UNCERTAINTY_COLORMAP, slice_views.UNCERTAINTY_RANGE)
            axis.set_aspect(slice_views.voxel_aspect(case.spacing, plane))
            figures.hide_axis(axis)
        _label_row(row[0], plane, images.has_orientation)

    for axis, column in zip(axes[0], titles, strict=True):
        axis.set_title(CONTRAST_LABELS.get(column, column), color=figures.INK, fontsize=10, pad=5)
    figure.text(0.03, 0.974, figures.escape_math(title), color=figures.INK, fontsize=11, va="center")
    figures.add_warning(figure, warnings, int(26 * len(titles)), 0.03, 0.94)
    _add_legend(figure, images.std is not None)
    return figure


def _create_axes(n_columns: int, case: PreprocessedCase) -> tuple[Figure, np.ndarray]:
    """Create a figure with three rows whose heights fit the brain: axial, coronal, sagittal."""
    size = [(n + 2 * MARGIN) * mm for n, mm in zip(case.brain.shape, case.spacing, strict=True)]
    heights = [size[1], size[2], size[2]]
    width = max(size[0], size[1])

    figure = figures.new_figure(2.1 * n_columns + 0.7, 2.1 * sum(heights) / width + 0.9)
    axes = figure.subplots(3, n_columns, squeeze=False, height_ratios=heights)
    figure.subplots_adjust(0.03, 0.075, 0.97, 0.89, 0.03, 0.03)
    return figure, axes


def _show_gray(axis: Axes, image: Slice2D, brain: np.ndarray, window: tuple[float, float]) -> None:
    low, high = window
    axis.imshow(np.where(brain, image, low), cmap="gray", vmin=low, vmax=high, interpolation="lanczos")


def _show_map(
    axis: Axes, values: Slice2D, is_shown: np.ndarray, colormap: Colormap, limits: tuple[float, float]
) -> None:
    """Show a map in color where `is_shown`; it is transparent elsewhere."""
    low, high = limits
    masked = np.ma.masked_where(~is_shown, values)
    colors = colormap.with_extremes(bad=(0, 0, 0, 0))
    axis.imshow(masked, cmap=colors, vmin=low, vmax=high, alpha=0.85, interpolation="nearest")


def _label_row(axis: Axes, plane: str, has_orientation: bool) -> None:
    """Write the plane's name beside its row, and the patient's sides into the first image."""
    axis.set_ylabel(plane, color=figures.MUTED, fontsize=8)
    if plane == "sagittal" or not has_orientation:
        return
    for x, side, alignment in ((0.02, "R", "left"), (0.98, "L", "right")):
        axis.text(x, 0.97, side, color=figures.MUTED, fontsize=8, transform=axis.transAxes, va="top", ha=alignment)


def _add_legend(figure: Figure, has_std: bool) -> None:
    """Add the color bars and the disclaimer at the bottom."""
    bars = [(0.38 if has_std else 0.5, ENHANCEMENT_COLORMAP, ENHANCEMENT_RANGE, ENHANCEMENT_TITLE)]
    if has_std:
        limits = slice_views.UNCERTAINTY_RANGE
        bars.append((0.77, UNCERTAINTY_COLORMAP, limits, f"{UNCERTAINTY_TITLE} (robust SD)"))

    for left, colormap, (low, high), text in bars:
        axis = figure.add_axes((left, 0.034, 0.09, 0.014))
        axis.imshow(np.linspace(0, 1, 64)[None], aspect="auto", cmap=colormap)
        figures.hide_axis(axis)
        figure.text(left - 0.005, 0.041, f"{low:g}", color=figures.MUTED, fontsize=7, ha="right", va="center")
        figure.text(left + 0.095, 0.041, f"{high:g}  {text}", color=figures.MUTED, fontsize=7, va="center")
    figure.text(0.03, 0.041, DISCLAIMER, color=DISCLAIMER_COLOR, fontsize=8, va="center")
