"""The planes that a volume is cut into slices along.

Networks see slices that lie along the last axis of RAS+ axes (x y z). For another plane z changes places with the axis
that its slices lie along; once more, and everything is where it was.
"""

from typing import Literal, get_args

from jaxtyping import Shaped
from numpy import ndarray

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = get_args(Plane)
ALONG: dict[Plane, str] = {"axial": "z", "coronal": "y", "sagittal": "x"}


def turned(volume: Shaped[ndarray, "x y z"], plane: Plane) -> Shaped[ndarray, "h w n"]:
    """A view of a volume with the slices of a plane along the last axis."""
    return volume.swapaxes("xyz".index(ALONG[plane]), 2)


def sliced(slices: Shaped[ndarray, "... z x y"], plane: Plane) -> Shaped[ndarray, "... n h w"]:
    """A view of axial slices, slices first, as slices of a plane."""
    return slices.swapaxes("zxy".index(ALONG[plane]) - 3, -3)
