"""Slices in the radiological convention, and the color maps of enhancement and uncertainty."""

import matplotlib
import numpy as np
from jaxtyping import Shaped
from matplotlib.colors import Colormap, ListedColormap, to_hex

from dsdiff.volume import Mask3D, Volume3D, VoxelSpacing

# Without the dark third of inferno, which looks like the gray image below it.
ENHANCEMENT_COLORMAP: Colormap = ListedColormap(
    matplotlib.colormaps["inferno"](np.linspace(0.35, 1, 256)), "enhancement"
)
UNCERTAINTY_COLORMAP: Colormap = matplotlib.colormaps["magma"]
UNCERTAINTY_RANGE = (0.0, 2.5)  # robust standard deviations
ENHANCEMENT_RANGE = (0.5, 4.0)  # robust standard deviations: transparent below the first, saturated above the second


def css_gradient(colormap: Colormap, low: float = 0.0, high: float = 1.0) -> str:
    """Return a color map as a CSS background, for the legend of a page.

    Args:
        colormap: The color map.
        low: Fraction of the color map at the left end, 0 to 1.
        high: Fraction of the color map at the right end, 0 to 1.

    Returns:
        A CSS `linear-gradient` from left to right.
    """
    stops = (to_hex(colormap(fraction)) for fraction in np.linspace(low, high, 9))
    return f"linear-gradient(90deg, {', '.join(stops)})"


def slice_view(
    volume: Shaped[np.ndarray, "x y z"], point: tuple[int, int, int], plane: str, margin: int = 0
) -> Shaped[np.ndarray, "h w"]:
    """Cut a slice in the radiological convention: patient's right on the left, anterior or superior on top.

    Args:
        volume: A volume on RAS+ axes.
        point: A voxel (x, y, z) in the slice.
        plane: `axial`, `coronal` or `sagittal`.
        margin: Pixels of zeros on every side.

    Returns:
        The slice, first row on top.
    """
    x, y, z = point
    planes = {"axial": volume[::-1, :, z], "coronal": volume[::-1, y, :], "sagittal": volume[x, ::-1, :]}
    return np.pad(planes[plane].T[::-1], margin)


def voxel_aspect(spacing: VoxelSpacing, plane: str) -> float:
    """Return the aspect ratio of a voxel in a slice.

    Args:
        spacing: Voxel size in mm along x, y, z.
        plane: `axial`, `coronal` or `sagittal`.

    Returns:
        Height over width.
    """
    x, y, z = spacing
    return {"axial": y / x, "coronal": z / x, "sagittal": z / y}[plane]


def gray_window(image: Volume3D, brain: Mask3D) -> tuple[float, float]:
    """Choose the intensities that are shown black and white.

    Args:
        image: A volume.
        brain: The brain mask.

    Returns:
        The 0.5 and 99.7 percentiles of the brain, the first lowered by a twentieth of the range.
    """
    low, high = np.percentile(image[brain], (0.5, 99.7))
    return float(low - 0.05 * (high - low)), float(high)
