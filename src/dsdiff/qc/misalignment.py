"""Whether contrasts lie on one another: the shift that brings the edges of one best onto those of another."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from dsdiff.preprocessing.normalize import Prepared

GRID_MM = 2.0
REACH_MM = 10.0
FAR_MM = 4.0  # patients of registered collections lie within 2 mm
WITHIN_MM = 6.0  # the stripped surface is common to all contrasts, wherever they lie
SIDES = (("left", "right"), ("back", "front"), ("down", "up"))


def displacement(prepared: Prepared, contrast: str, onto: str) -> tuple[float, float, float]:
    """How far a contrast lies from another along x, y, z in mm, from -`REACH_MM` to `REACH_MM`.

    It is found to the nearest `GRID_MM`, axis after axis, by the correlation of the edges inside the brain.
    """
    spacing = np.array(prepared.spacing)
    every = tuple(slice(None, None, max(1, round(GRID_MM / size))) for size in spacing)
    steps = max(1, round(WITHIN_MM / float(spacing.mean())))
    inner = ndimage.binary_erosion(prepared.brain, iterations=steps)[every]
    fixed, moving = (_edges(prepared.images[name])[every] for name in (onto, contrast))
    grid = spacing * [part.step for part in every]
    at, best = [0, 0, 0], _agreement(fixed, moving, inner, (0, 0, 0))
    before = None
    while before != at:
        before = at
        for axis in range(3):
            reach = int(REACH_MM // grid[axis])
            for shift in range(-reach, reach + 1):
                tried = [shift if k == axis else at[k] for k in range(3)]
                if (found := _agreement(fixed, moving, inner, tried)) > best:
                    at, best = tried, found
    x, y, z = (float(-n * size) for n, size in zip(at, grid, strict=True))
    return x, y, z


def doubts(prepared: Prepared, onto: str) -> tuple[str, ...]:
    """The contrasts that lie `FAR_MM` or more from `onto`, in words."""
    said = []
    for name in sorted(set(prepared.images) - {onto}):
        shift = displacement(prepared, name, onto)
        if max(map(abs, shift)) >= FAR_MM:
            ways = [f"{abs(s):.0f} mm {side[s > 0]}" for s, side in zip(shift, SIDES, strict=True) if s]
            said.append(f"{name} seems to lie {', '.join(ways)} of {onto}: are they registered?")
    return tuple(said)


def _edges(image: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    return ndimage.gaussian_gradient_magnitude(image.clip(-5, 5), 1.0)


def _agreement(
    fixed: Float[np.ndarray, "x y z"],
    moving: Float[np.ndarray, "x y z"],
    inner: Bool[np.ndarray, "x y z"],
    shift: Sequence[int],
) -> float:
    """Correlation of two images where both lie in a region, the second moved by so many voxels."""
    here = tuple(slice(max(0, n), None if n >= 0 else n) for n in shift)
    there = tuple(slice(max(0, -n), None if n <= 0 else -n) for n in shift)
    both = inner[here] & inner[there]
    a, b = fixed[here][both], moving[there][both]
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 100 and a.std() > 0 and b.std() > 0 else -1.0
