"""Smooth random fields: the source of every irregular shape in a phantom."""

from collections.abc import Callable, Sequence

import numpy as np

Axes = Sequence[np.ndarray]
"""Coordinates along x, y and z of the points of a regular grid."""

SmoothField = Callable[[Axes], np.ndarray]
"""A function from the axes of a grid to the values (x, y, z) on it."""

SPLINE_STD = 0.479**1.5
"""Standard deviation of a spline field with standard normal control points.

0.479 is the mean, over the interval between two knots, of the sum of the squared B-spline weights.
"""


def sample_smooth_field(rng: np.random.Generator, extent: Sequence[int], knot_mm: float) -> SmoothField:
    """Sample a random smooth function on a box.

    The function is a uniform cubic B-spline, so it is cheap and has no kinks.

    Args:
        rng: Random generator.
        extent: Size of the box in voxels of 1 mm.
        knot_mm: Distance of the control points in mm: the width of the features.

    Returns:
        A function with about zero mean and unit variance.
    """
    control = rng.normal(size=tuple(int(np.ceil(n / knot_mm)) + 4 for n in extent)).astype(np.float32)

    def evaluate(axes: Axes) -> np.ndarray:
        values = control
        for axis, points in enumerate(axes):
            basis = _spline_basis(points / knot_mm, control.shape[axis])  # (points, knots)
            values = np.moveaxis(np.tensordot(basis, values, axes=(1, axis)), 0, axis)
        return values / SPLINE_STD

    return evaluate


def _spline_basis(points: np.ndarray, knots: int) -> np.ndarray:
    """Return the weights (points, knots) of the uniform cubic B-spline."""
    distance = np.abs(points[:, None] + 1.5 - np.arange(knots)[None])
    center_weight = 2 / 3 - distance**2 + distance**3 / 2
    tail_weight = (2 - distance).clip(0) ** 3 / 6
    return np.where(distance < 1, center_weight, tail_weight).astype(np.float32)


def sample_noise_volume(rng: np.random.Generator, shape: Sequence[int], knot_mm: float) -> np.ndarray:
    """Sample a smooth random volume.

    Args:
        rng: Random generator.
        shape: Size of the volume in voxels of 1 mm.
        knot_mm: Width of the features in mm.

    Returns:
        (x, y, z) float32 with about zero mean and unit variance.
    """
    return sample_smooth_field(rng, shape, knot_mm)([np.arange(n, dtype=np.float32) for n in shape])
