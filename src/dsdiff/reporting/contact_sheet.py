"""A contact sheet of a store: one slice of many cases, every contrast side by side, to be looked at before training."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure

from dsdiff.data import store
from dsdiff.data.dataset import LESION
from dsdiff.data.store import REGION, Store
from dsdiff.preprocessing import planes
from dsdiff.preprocessing.planes import Plane
from dsdiff.reporting import slice_views

NAME = "contact.png"
MOST, ACROSS, TILE = 24, 3, 1.1  # cases, cases in a row, inches of a contrast
GREYS = (-4.0, 6.0)  # robust z-scores


def sheet(opened: Store) -> Figure:
    """The middle slice with tumour (of all without any) of up to `MOST` cases; outlined: tumour and what enhances.

    Patient's right on the left, anterior on top; an absent contrast is left blank.
    """
    plane = opened.settings.planes[0]
    names = [*opened.settings.contrasts, opened.settings.target]
    which = np.unique(np.linspace(0, len(opened.entries) - 1, min(MOST, len(opened.entries))).round().astype(int))
    shown = [list(opened.entries.values())[i] for i in which]
    rows = -(-len(shown) // ACROSS)
    figure = Figure((ACROSS * len(names) * TILE, rows * 1.45 * TILE + 0.4), dpi=110, layout="constrained")
    of = f"{len(shown)} of {len(opened.entries)} cases"
    figure.suptitle(slice_views.plain(f"{opened.root.name}: {of}; {', '.join(names)}"), fontsize=9)
    panels = figure.subplots(rows, ACROSS, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, entry in zip(panels, shown, strict=False):
        at = _slice(entry.peaks[plane])
        there = [name for name in names if name not in entry.absent]
        read = store.read_arrays(store.case_file(opened.root, entry.name), dict.fromkeys((*there, REGION), at), plane)
        blank = np.full(read[REGION].shape, GREYS[0], np.float32)
        upright = [_upright(read.get(name, blank), plane) for name in names]
        panel.imshow(np.concatenate(upright, 1), cmap="gray", vmin=GREYS[0], vmax=GREYS[1])
        region = np.tile(_upright(read[REGION], plane), (1, len(names)))
        for least, colour in ((2, "tab:cyan"), (3, "tab:orange")):
            if (region >= least).any():
                panel.contour(region >= least, [0.5], colors=colour, linewidths=0.5)
        panel.set_title(slice_views.plain(f"{entry.name}, slice {at}"), fontsize=6, pad=2)
    return figure


def _upright(image: Shaped[np.ndarray, "h w"], plane: Plane) -> Float[np.ndarray, "H W"]:
    return slice_views.plane(planes.turned(image[:, :, None].astype(np.float32), plane), (0, 0, 0), plane)


def _slice(peak: str) -> int:
    """The middle of the slices with tumour, or of all where there is none."""
    with_tumour = [at for at, digit in enumerate(peak) if int(digit) >= LESION] or list(range(len(peak)))
    return with_tumour[len(with_tumour) // 2]


def draw(opened: Store, path: Path) -> None:
    """Write the sheet of a store as a PNG."""
    sheet(opened).savefig(path)
