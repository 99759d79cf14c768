"""Orientation: reorder the axes of a volume to RAS+ and back, by permutation and flips. Nothing is resampled."""

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from dsdiff.volume import Volume, Volume3D

RAS = np.array([[0, 1], [1, 1], [2, 1]])  # orientation of (x, y, z) = (right, anterior, superior)


def to_canonical(volume: Volume) -> Volume:
    """Reorder the axes of a volume to RAS+ by permutation and flips.

    Args:
        volume: Axes in any order and direction.

    Returns:
        A view of the same image, (x, y, z) = (right, anterior, superior), with the affine of the new axes. Voxel
        values are not touched.
    """
    orientation = io_orientation(volume.affine)
    array = apply_orientation(volume.array, orientation)

    return Volume(array, volume.affine @ inv_ornt_aff(orientation, volume.shape))


def from_canonical(array: Volume3D, reference: Volume) -> Volume:
    """Undo `to_canonical`: put an RAS+ array back on the grid of `reference`.

    Args:
        array: (x, y, z), axes in RAS+ order.
        reference: The volume whose axes, affine and header the result takes.

    Returns:
        A volume on the grid of `reference`.
    """
    inverse = ornt_transform(RAS, io_orientation(reference.affine))

    return reference.with_array(np.ascontiguousarray(apply_orientation(array, inverse)))
