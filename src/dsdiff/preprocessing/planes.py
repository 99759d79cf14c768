"""Axial, coronal and sagittal slices of a volume.

Volumes have RAS+ axes (x y z), and networks see slices along the last axis. For another plane, z is swapped with the
axis that its slices lie along. The same swap again restores the volume.
"""

from typing import Literal, get_args

from jaxtyping import Shaped
from numpy import ndarray

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = get_args(Plane)
SLICE_AXIS: dict[Plane, str] = {"axial": "z", "coronal": "y", "sagittal": "x"}


def volume_to_plane(volume: Shaped[ndarray, "x y z"], plane: Plane) -> Shaped[ndarray, "h w n"]:
    """Put the slices of a plane along the last axis.

    Args:
        volume: (x, y, z).
        plane: Plane of the slices.

    Returns:
        A view with n slices of h x w.
    """
    return volume.swapaxes("xyz".index(SLICE_AXIS[plane]), 2)


def slices_to_plane(slices: Shaped[ndarray, "... z x y"], plane: Plane) -> Shaped[ndarray, "... n h w"]:
    """Turn a stack of axial slices into a stack of slices of another plane.

    Args:
        slices: Axial slices, z first.
        plane: Plane of the result.

    Returns:
        A view with n slices of h x w.
    """
    return slices.swapaxes("zxy".index(SLICE_AXIS[plane]) - 3, -3)
