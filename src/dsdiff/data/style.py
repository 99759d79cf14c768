"""The style of a T1ce: how its tissues look whatever the agent does, as a linear function of the source contrasts.

T1 and T1ce often come from different sequences, so grey matter, white matter and fluid change places from site to site
in ways that no input can tell. A linear regression of one patient's T1ce on its own sources captures that patient's
style; the one of many patients captures the average style. Exchanging the first for the second leaves enhancement,
which the sources do not explain, where it is.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float

Image = Float[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]
OUTLIER = 2.0  # robust z-scores of residual above which a voxel says something of agent, not of style


class LinearRegression:
    """T1ce as a weighted sum of the sources, voxel by voxel, on robust z-scores; patients weigh the same."""

    def __init__(self, n_sources: int) -> None:
        self.gram, self.moment = np.zeros((n_sources + 1, n_sources + 1)), np.zeros(n_sources + 1)

    def add(self, sources: Sequence[Image], truth: Image, region: Mask) -> None:
        """Learn from one patient's voxels in a region."""
        x = self._design(sources, region)
        self.gram += x.T @ x / len(x)
        self.moment += x.T @ truth[region].astype(np.float64) / len(x)

    @property
    def weights(self) -> Float[np.ndarray, " f"]:
        """The style as a code: a weight for every source, then a constant. `LinAlgError` before anything was learnt."""
        return np.linalg.solve(self.gram, self.moment)

    def predict(self, sources: Sequence[Image], brain: Mask) -> Image:
        """The T1ce of one patient, zero outside the brain. `numpy.linalg.LinAlgError` before anything was learnt."""
        out = np.zeros(brain.shape)
        out[brain] = self._design(sources, brain) @ self.weights
        return out

    @staticmethod
    def merged(parts: Iterable["LinearRegression"]) -> "LinearRegression":
        """One regression that learnt from all patients of its parts. Raises `ValueError` where there are none."""
        parts = list(parts)
        if not parts:
            raise ValueError("no patient to learn from")
        whole = LinearRegression(len(parts[0].moment) - 1)
        for part in parts:
            whole.gram += part.gram
            whole.moment += part.moment
        return whole

    @staticmethod
    def _design(sources: Sequence[Image], region: Mask) -> Float[np.ndarray, "n f"]:
        columns = [np.asarray(source[region], np.float64) for source in sources]
        return np.stack([*columns, np.ones_like(columns[0])], 1)


def told(
    sources: Float[np.ndarray, "s h w"], code: Float[np.ndarray, " f"], brain: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """A slice in the style of a code, zero outside the brain."""
    return (np.tensordot(code[:-1], sources, 1) * brain + code[-1] * brain).astype(np.float32)


def own_style(sources: Sequence[Image], truth: Image, healthy: Mask, rounds: int = 3) -> LinearRegression:
    """The style of one patient, fitted in healthy brain and then again without the voxels that enhance there."""
    region = healthy
    for _ in range(rounds):
        style = LinearRegression(len(sources))
        style.add(sources, truth, region)
        region = healthy & (truth - style.predict(sources, healthy) < OUTLIER)
    return style


def restyled(
    sources: Sequence[Image], truth: Image, brain: Mask, own: LinearRegression, other: LinearRegression
) -> Image:
    """The T1ce as it might have looked in another style: the own style's part exchanged, the rest kept."""
    return np.where(brain, truth - own.predict(sources, brain) + other.predict(sources, brain), 0).astype(np.float32)
