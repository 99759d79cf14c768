"""Slices as radiologists look at them, and the colours that dsdiff draws its maps in."""

import matplotlib
import numpy as np
from jaxtyping import Bool, Shaped
from matplotlib.colors import Colormap, ListedColormap, to_hex

ENHANCEMENT_COLOURS: Colormap = ListedColormap(
    matplotlib.colormaps["inferno"](np.linspace(0.35, 1, 256)), "enhancement"
)
SPREAD_COLOURS: Colormap = matplotlib.colormaps["magma"]
SPREAD_RANGE = (0.0, 2.5)  # robust standard deviations
ENHANCEMENT_RANGE = (0.5, 4.0)  # robust z-scores: below the first nothing is drawn, above the second it saturates


def plain(text: str) -> str:
    """A name or a path for a picture, letter by letter: what stands between two $ is no formula to matplotlib then."""
    return text.encode("utf-8", "replace").decode().replace("$", r"\$")


def gradient(colours: Colormap, low: float = 0.0, high: float = 1.0) -> str:
    """The part of a colour map from one share of its range to another, as a CSS background."""
    stops = (to_hex(colours(share)) for share in np.linspace(low, high, 9))
    return f"linear-gradient(90deg, {', '.join(stops)})"


def plane(
    volume: Shaped[np.ndarray, "x y z"], point: tuple[int, int, int], name: str, margin: int = 0
) -> Shaped[np.ndarray, "h w"]:
    """A slice through a point as radiologists look at it: patient's right on the left, anterior or superior on top.

    margin: pixels of nothing all around.
    """
    x, y, z = point
    cut = {"axial": volume[::-1, :, z], "coronal": volume[::-1, y, :], "sagittal": volume[x, ::-1, :]}[name]
    return np.pad(cut.T[::-1], margin)


def aspect(spacing: tuple[float, float, float], name: str) -> float:
    """Height over width of a voxel in a plane."""
    x, y, z = spacing
    return {"axial": y / x, "coronal": z / x, "sagittal": z / y}[name]


def window(image: Shaped[np.ndarray, "x y z"], brain: Bool[np.ndarray, "x y z"]) -> tuple[float, float]:
    """Grey window: 0.5 to 99.7 percentiles in the brain, a little darker below."""
    low, high = np.percentile(image[brain], (0.5, 99.7))
    return float(low - 0.05 * (high - low)), float(high)
