"""Matplotlib figures in the style of dsdiff: create, save, and embed. The same figure gives the same bytes."""

import base64
import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave

BACKGROUND, INK, MUTED, WARNING = "#0b0d10", "#e8eaed", "#9aa0a6", "#fdd663"  # dark figures of images
LIGHT_BACKGROUND = "white"  # plots of numbers


def new_figure(
    width: float,
    height: float,
    background: str = BACKGROUND,
    dpi: int = 110,
    layout: Literal["constrained"] | None = None,
) -> Figure:
    """Create an empty figure.

    Args:
        width: Width in inches.
        height: Height in inches.
        background: A matplotlib color.
        dpi: Pixels per inch, on screen and in a file.
        layout: `constrained` lets matplotlib place the axes.

    Returns:
        The figure, without axes. It is unknown to pyplot, so it needs no closing.
    """
    return Figure(figsize=(width, height), facecolor=background, dpi=dpi, layout=layout)


def hide_axis(axis: Axes) -> None:
    """Remove ticks and frame from the axes of an image, and make their ground black.

    Args:
        axis: The axes; changed in place.
    """
    axis.set_facecolor("black")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def add_warning(figure: Figure, warnings: Sequence[str], max_letters: int, x: float, y: float) -> None:
    """Write the first warning into a figure, and how many more there are.

    Args:
        figure: The figure; changed in place.
        warnings: Warnings about the input; nothing is written if there are none.
        max_letters: Length to which the warning is shortened.
        x: Left end of the text, as a fraction of the figure's width.
        y: Middle of the text, as a fraction of the figure's height.
    """
    if not warnings:
        return
    line = textwrap.shorten(f"Warning: {warnings[0]}", max_letters, placeholder=" ...")
    if len(warnings) > 1:
        line += f" (and {len(warnings) - 1} more)"
    figure.text(x, y, escape_math(line), color=WARNING, fontsize=8.5, va="center")


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, at its own resolution.

    Args:
        figure: The figure.
        path: The file to write; any name.
    """
    # Without the software entry the bytes do not depend on matplotlib's version.
    figure.savefig(path, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})


def render_svg(figure: Figure) -> str:
    """Render a figure as SVG text.

    Args:
        figure: The figure.

    Returns:
        The SVG document. Text stays text, so that a page can set its font and color.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "dsdiff", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"<metadata>.*?</metadata>\s*", "", buffer.getvalue(), flags=re.DOTALL)


def encode_png(image: Float[np.ndarray, "h w 3"]) -> bytes:
    """Encode an image as PNG, one pixel per value.

    Args:
        image: Red, green and blue, 0 to 1.

    Returns:
        The bytes of the PNG file.
    """
    buffer = io.BytesIO()
    imsave(buffer, (255 * image).round().astype(np.uint8), format="png", metadata={"Software": "dsdiff"})
    return buffer.getvalue()


def png_data_uri(png: bytes) -> str:
    """Return a PNG as a data URI, for the `src` of an `<img>` in a page that needs no other file.

    Args:
        png: The bytes of a PNG file.

    Returns:
        A URI that starts with `data:image/png;base64,`.
    """
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def escape_math(text: str) -> str:
    """Escape text for a figure, so that matplotlib does not read `$...$` as a formula.

    Args:
        text: A name or a path, possibly with bytes that are no valid text.

    Returns:
        Text that matplotlib shows letter by letter.
    """
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")
