"""The style of a T1ce: how its tissues look whatever the agent does, as a function of the source contrasts.

T1 and T1ce often come from different sequences, so grey matter, white matter and fluid change places from site to site
in ways that no input can tell. A regression of one patient's T1ce on its own sources captures that patient's style; the
one of many patients captures the average style. Exchanging the first for the second leaves enhancement, which the
sources do not explain, where it is. Two kinds: linear in each source, or a curve of each, bent at `KNOTS`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsdiff.errors import InputError

Image = Float[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]
Code = Float[np.ndarray, " f"]  # a weight for every source, then for what of it lies above each knot, then a constant
OUTLIER = 2.0  # robust z-scores of residual above which a voxel says something of agent, not of style
KNOTS: dict[str, tuple[float, ...]] = {"linear": (), "curves": (-1.0, 1.0)}
ROUNDS = {"linear": 3, "curves": 1}
LIMIT = 6.0  # robust z-scores beyond which a curve goes on level
RIDGE = 1e-3  # of a curve, in shares of each column's mean square


class LinearRegression:
    """T1ce as a weighted sum of the sources (with knots, of curves of them), voxel by voxel, on robust z-scores;
    patients weigh the same.
    """

    def __init__(self, n_sources: int, knots: tuple[float, ...] = ()) -> None:
        n = n_sources * (1 + len(knots)) + 1
        self.knots, self.gram, self.moment = knots, np.zeros((n, n)), np.zeros(n)

    @staticmethod
    def of(
        gram: Float[np.ndarray, "f f"], moment: Float[np.ndarray, " f"], knots: tuple[float, ...]
    ) -> "LinearRegression":
        """One that has learnt already."""
        found = LinearRegression((len(moment) - 1) // (1 + len(knots)), knots)
        if (found.gram.shape, found.moment.shape) != (gram.shape, moment.shape):
            raise ValueError(f"{gram.shape} and {moment.shape} are no regression with {len(knots)} knots")
        found.gram, found.moment = gram, moment
        return found

    def add(self, sources: Sequence[Image], truth: Image, region: Mask) -> None:
        """Learn from one patient's voxels in a region."""
        x = self._design(sources, region)
        self.gram += x.T @ x / len(x)
        self.moment += x.T @ truth[region].astype(np.float64) / len(x)

    @property
    def weights(self) -> Code:
        """The style as a code. `LinAlgError` before anything was learnt."""
        ridge = RIDGE * np.diag(np.diag(self.gram)) if self.knots else 0.0
        return np.linalg.solve(self.gram + ridge, self.moment)

    def predict(self, sources: Sequence[Image], brain: Mask) -> Image:
        """The T1ce of one patient, zero outside the brain. `numpy.linalg.LinAlgError` before anything was learnt."""
        out = np.zeros(brain.shape)
        out[brain] = self._design(sources, brain) @ self.weights
        return out

    @staticmethod
    def merged(parts: Iterable["LinearRegression"], weights: Sequence[float] | None = None) -> "LinearRegression":
        """One regression that learnt from all patients of its parts. Raises `ValueError` where there are none."""
        parts = list(parts)
        if not parts:
            raise ValueError("no patient to learn from")
        given = [1.0] * len(parts) if weights is None else weights
        gram = sum(weight * part.gram for weight, part in zip(given, parts, strict=True))
        moment = sum(weight * part.moment for weight, part in zip(given, parts, strict=True))
        return LinearRegression.of(np.asarray(gram), np.asarray(moment), parts[0].knots)

    def _design(self, sources: Sequence[Image], region: Mask) -> Float[np.ndarray, "n f"]:
        values = np.stack([np.asarray(source[region], np.float64) for source in sources])
        return np.concatenate([_terms(torch.from_numpy(values), self.knots).numpy(), np.ones((1, values.shape[1]))]).T


def _terms(sources: Float[Tensor, "s ..."], knots: tuple[float, ...]) -> Float[Tensor, "t ..."]:
    """Every source, then what of each lies above every knot."""
    if not knots:
        return sources
    held = sources.clamp(-LIMIT, LIMIT)
    return torch.cat([held, *((held - knot).clamp(min=0) for knot in knots)])


def drawn(code: Float[Tensor, " f"], sources: Float[Tensor, "s ..."]) -> Float[Tensor, "..."]:
    """The sources (robust z-scores) in the style of a code, of either kind."""
    kinds = {len(sources) * (1 + len(knots)) + 1: knots for knots in KNOTS.values()}
    return torch.tensordot(code[:-1], _terms(sources, kinds[len(code)]), 1) + code[-1]


def told(
    sources: Float[np.ndarray, "s h w"], code: Float[np.ndarray, " f"], brain: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """A slice in the style of a code, zero outside the brain."""
    return (drawn(torch.from_numpy(code).float(), torch.from_numpy(sources)).numpy() * brain).astype(np.float32)


def own_style(sources: Sequence[Image], truth: Image, healthy: Mask, kind: str = "linear") -> LinearRegression:
    """The style of one patient, fitted in healthy brain; a line again without the voxels that enhance there. Curves are
    not: they would lose the bright tissues that they are to follow. Raises `InputError` for contrasts that are copies.
    """
    region = healthy
    for _ in range(ROUNDS[kind]):
        style = LinearRegression(len(sources), KNOTS[kind])
        style.add(sources, truth, region)
        try:
            region = healthy & (truth - style.predict(sources, healthy) < OUTLIER)
        except np.linalg.LinAlgError as error:
            raise InputError("one contrast is a copy of another: they tell no style of the T1ce") from error
    return style
