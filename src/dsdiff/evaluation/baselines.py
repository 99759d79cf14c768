"""What needs no network: the floor and the ceiling that a model is judged between."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from dsdiff.evaluation.metrics import Image, Mask


class LinearRegression:
    """T1ce as a weighted sum of the source contrasts, voxel by voxel, on robust z-scores; patients weigh the same."""

    def __init__(self, n_sources: int) -> None:
        self.gram, self.moment = np.zeros((n_sources + 1, n_sources + 1)), np.zeros(n_sources + 1)

    def add(self, sources: Sequence[Image], truth: Image, brain: Mask) -> None:
        """Learn from one patient."""
        x = self._design(sources, brain)
        self.gram += x.T @ x / len(x)
        self.moment += x.T @ truth[brain] / len(x)

    def predict(self, sources: Sequence[Image], brain: Mask) -> Image:
        """The T1ce of one patient, zero outside the brain. Raises `numpy.linalg.LinAlgError` before anything was learnt."""
        out = np.zeros(brain.shape)
        out[brain] = self._design(sources, brain) @ np.linalg.solve(self.gram, self.moment)
        return out

    @staticmethod
    def merged(parts: Iterable["LinearRegression"]) -> "LinearRegression":
        """One regression that learnt from all patients of its parts."""
        parts = list(parts)
        whole = LinearRegression(len(parts[0].moment) - 1)
        whole.gram, whole.moment = sum(p.gram for p in parts), sum(p.moment for p in parts)
        return whole

    @staticmethod
    def _design(sources: Sequence[Image], brain: Mask) -> Float[np.ndarray, "n f"]:
        columns = [np.asarray(source[brain], np.float64) for source in sources]
        return np.stack([*columns, np.ones_like(columns[0])], 1)


def blurred_truth(truth: Image, brain: Mask, sigma_mm: float = 1.0, spacing_mm: float = 1.0) -> Image:
    """The truth seen through a Gaussian: what a sharp-eyed but slightly short-sighted model would score."""
    return ndimage.gaussian_filter(truth.astype(np.float64), sigma_mm / spacing_mm) * brain
