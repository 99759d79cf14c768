"""Contact sheet of a store: one slice of many cases, all contrasts side by side, for a look before training."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsdiff.data import store
from dsdiff.data.dataset import ENHANCING, LESION
from dsdiff.data.hdf5_slices import REGION_NAME, read_arrays
from dsdiff.data.store import Store, StoreRecord
from dsdiff.preprocessing import planes
from dsdiff.preprocessing.planes import Plane
from dsdiff.reporting import figures, slice_views

FILE_NAME = "contact.png"
MAX_CASES, CASES_PER_ROW = 24, 3
TILE_INCHES = 1.1  # width of one contrast
GRAY_RANGE = (-4.0, 6.0)  # robust z-scores shown black and white
OUTLINE_COLORS = {LESION: "tab:cyan", ENHANCING: "tab:orange"}  # region value -> outline of it and larger values


def plot_contact_sheet(case_store: Store) -> Figure:
    """Plot the middle slice with tumour (without any: the middle slice) of up to MAX_CASES cases.

    Args:
        case_store: The store.

    Returns:
        The figure: patient's right on the left, anterior on top; outlines of tumour and enhancing tumour. A missing
        contrast is black.
    """
    records = list(case_store.records.values())
    indices = np.linspace(0, len(records) - 1, min(MAX_CASES, len(records))).round().astype(int)
    selected = [records[index] for index in np.unique(indices)]

    contrasts = [*case_store.settings.contrasts, case_store.settings.target]
    n_rows = -(-len(selected) // CASES_PER_ROW)
    width, height = CASES_PER_ROW * len(contrasts) * TILE_INCHES, n_rows * 1.45 * TILE_INCHES + 0.4
    figure = figures.new_figure(width, height, figures.LIGHT_BACKGROUND, layout="constrained")
    title = f"{case_store.root.name}: {len(selected)} of {len(records)} cases; {', '.join(contrasts)}"
    figure.suptitle(figures.escape_math(title), fontsize=9)

    axes = figure.subplots(n_rows, CASES_PER_ROW, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, record in zip(axes, selected, strict=False):
        _show_case(axis, case_store, record, contrasts)
    return figure


def _show_case(axis: Axes, case_store: Store, record: StoreRecord, contrasts: list[str]) -> None:
    """Show one slice of a case, all contrasts side by side."""
    plane = case_store.settings.planes[0]
    index = _select_slice(record.max_region_digits[plane])
    present = [contrast for contrast in contrasts if contrast not in record.absent]
    file = store.case_path(case_store.root, record.name)
    slices = read_arrays(file, dict.fromkeys((*present, REGION_NAME), index), plane)

    blank = np.full(slices[REGION_NAME].shape, GRAY_RANGE[0], np.float32)
    images = [_radiological(slices.get(contrast, blank), plane) for contrast in contrasts]
    axis.imshow(np.concatenate(images, 1), cmap="gray", vmin=GRAY_RANGE[0], vmax=GRAY_RANGE[1])

    region = np.tile(_radiological(slices[REGION_NAME], plane), (1, len(contrasts)))
    for value, color in OUTLINE_COLORS.items():
        if (region >= value).any():
            axis.contour(region >= value, [0.5], colors=color, linewidths=0.5)
    axis.set_title(figures.escape_math(f"{record.name}, slice {index}"), fontsize=6, pad=2)


def _radiological(image: Shaped[np.ndarray, "h w"], plane: Plane) -> Float[np.ndarray, "H W"]:
    volume = planes.volume_to_plane(image[:, :, None].astype(np.float32), plane)
    return slice_views.slice_view(volume, (0, 0, 0), plane)


def _select_slice(max_region_digits: str) -> int:
    """Return the middle of the slices with tumour, or of all slices. max_region_digits: one digit per slice."""
    with_tumour = [index for index, digit in enumerate(max_region_digits) if int(digit) >= LESION]
    candidates = with_tumour or list(range(len(max_region_digits)))
    return candidates[len(candidates) // 2]


def write_contact_sheet(case_store: Store, path: Path) -> None:
    """Write the contact sheet of a store.

    Args:
        case_store: The store.
        path: The PNG file to write.
    """
    figures.save_png(plot_contact_sheet(case_store), path)
