"""The style of a T1ce: how its tissues look without enhancement, as a function of the source contrasts.

T1 and T1ce often come from different sequences. Therefore the order of gray matter, white matter and fluid changes from
site to site in ways that no input reveals. A regression of one patient's T1ce on its own sources captures that
patient's style; a regression over many patients captures the average style. Replacing the first by the second keeps
the enhancement, which the sources do not explain. There are two kinds: linear in each source, or a curve of each source
with bends at `KNOTS`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsdiff.errors import InputError
from dsdiff.volume import Mask3D, Slice2D, Volume3D

StyleKind = Literal["linear", "curves"]
KNOTS: dict[StyleKind, tuple[float, ...]] = {"linear": (), "curves": (-1.0, 1.0)}  # robust z-scores
FIT_ROUNDS: dict[StyleKind, int] = {"linear": 3, "curves": 1}
MAX_STYLE_RESIDUAL = 2.0  # robust z-scores; a voxel above it shows enhancement, not style
Z_CLIP = 6.0  # robust z-scores beyond which a curve is constant
RIDGE = 1e-3  # of curves, as a share of each column's mean square


@dataclass(frozen=True, eq=False)
class StyleCode:
    """A style as numbers.

    Attributes:
        kind: Linear in each source, or a curve of each source.
        weights: A weight for every source, then for the part of every source above each knot, then a constant.
    """

    kind: StyleKind
    weights: Float[np.ndarray, " f"]


def n_style_weights(kind: StyleKind, n_sources: int) -> int:
    """Number of weights of a style.

    Args:
        kind: Linear or curves.
        n_sources: Number of source contrasts.

    Returns:
        The length of `StyleCode.weights`.
    """
    return n_sources * (1 + len(KNOTS[kind])) + 1


class LinearRegression:
    """T1ce as a weighted sum of the sources (or of curves of them), voxel by voxel, on robust z-scores.

    It keeps the normal equations, so that regressions of several patients add up. Every patient has the same weight.

    Args:
        n_sources: Number of source contrasts.
        kind: Linear or curves.
    """

    def __init__(self, n_sources: int, kind: StyleKind = "linear") -> None:
        n = n_style_weights(kind, n_sources)
        self.kind: StyleKind = kind
        self.gram = np.zeros((n, n))
        self.moment = np.zeros(n)

    @staticmethod
    def from_equations(
        gram: Float[np.ndarray, "f f"], moment: Float[np.ndarray, " f"], kind: StyleKind
    ) -> "LinearRegression":
        """Build a regression from its normal equations.

        Args:
            gram: Mean products of the regressors.
            moment: Mean products of regressors and T1ce.
            kind: Linear or curves.

        Returns:
            The fitted regression.

        Raises:
            ValueError: The shapes fit no regression of that kind.
        """
        regression = LinearRegression((len(moment) - 1) // (1 + len(KNOTS[kind])), kind)
        if (regression.gram.shape, regression.moment.shape) != (gram.shape, moment.shape):
            raise ValueError(f"shapes {gram.shape} and {moment.shape} fit no regression of kind '{kind}'")

        regression.gram, regression.moment = gram, moment
        return regression

    def add_patient(self, sources: Sequence[Volume3D], target: Volume3D, region: Mask3D) -> None:
        """Add the voxels of one patient.

        Args:
            sources: Source contrasts, robust z-scores.
            target: T1ce, robust z-scores.
            region: The voxels to fit.
        """
        x = self._design(sources, region)
        self.gram += x.T @ x / len(x)
        self.moment += x.T @ target[region].astype(np.float64) / len(x)

    @property
    def weights(self) -> Float[np.ndarray, " f"]:
        """The solution of the normal equations.

        Returns:
            Weights in the order of `StyleCode.weights`.

        Raises:
            numpy.linalg.LinAlgError: No patient was added, or one source is a copy of another.
        """
        ridge = RIDGE * np.diag(np.diag(self.gram)) if KNOTS[self.kind] else 0.0
        return np.linalg.solve(self.gram + ridge, self.moment)

    @property
    def style_code(self) -> StyleCode:
        """The style that the regression describes.

        Returns:
            Its kind and weights.
        """
        return StyleCode(self.kind, self.weights)

    def predict(self, sources: Sequence[Volume3D], brain: Mask3D) -> Volume3D:
        """Predict the T1ce of one patient.

        Args:
            sources: Source contrasts, robust z-scores.
            brain: Brain mask.

        Returns:
            Robust z-scores, zero outside the brain.

        Raises:
            numpy.linalg.LinAlgError: No patient was added.
        """
        prediction = np.zeros(brain.shape)
        prediction[brain] = self._design(sources, brain) @ self.weights
        return prediction

    @staticmethod
    def merge(parts: Iterable["LinearRegression"], weights: Sequence[float] | None = None) -> "LinearRegression":
        """Merge regressions into one over the patients of all of them.

        Args:
            parts: Regressions of the same sources and kind.
            weights: Weight of each part; 1 by default.

        Returns:
            The regression over all patients.

        Raises:
            ValueError: There are no parts.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("no regression to merge: no patient")
        if weights is None:
            weights = [1.0] * len(parts)

        gram = sum(weight * part.gram for weight, part in zip(weights, parts, strict=True))
        moment = sum(weight * part.moment for weight, part in zip(weights, parts, strict=True))

        return LinearRegression.from_equations(np.asarray(gram), np.asarray(moment), parts[0].kind)

    def _design(self, sources: Sequence[Volume3D], region: Mask3D) -> Float[np.ndarray, "n f"]:
        """The regressors of every voxel of a region."""
        values = np.stack([np.asarray(source[region], np.float64) for source in sources])  # s n
        regressors = _regressors(torch.from_numpy(values), self.kind).numpy()
        return np.concatenate([regressors, np.ones((1, values.shape[1]))]).T


def _regressors(sources: Float[Tensor, "s ..."], kind: StyleKind) -> Float[Tensor, "t ..."]:
    """Every source, then the part of every source above each knot."""
    knots = KNOTS[kind]
    if not knots:
        return sources

    clipped = sources.clamp(-Z_CLIP, Z_CLIP)
    return torch.cat([clipped, *((clipped - knot).clamp(min=0) for knot in knots)])


def render_style(
    weights: Float[Tensor, " f"], kind: StyleKind, sources: Float[Tensor, "s ..."]
) -> Float[Tensor, "..."]:
    """Render sources in a style.

    Args:
        weights: See `StyleCode.weights`.
        kind: Linear or curves.
        sources: Source contrasts, robust z-scores, of any shape behind the first axis.

    Returns:
        The T1ce without enhancement, robust z-scores.
    """
    return torch.tensordot(weights[:-1], _regressors(sources, kind), 1) + weights[-1]


def render_style_np(
    sources: Float[np.ndarray, "s h w"], style_code: StyleCode, brain: Bool[np.ndarray, "h w"]
) -> Slice2D:
    """Render a slice in a style, on NumPy arrays.

    Args:
        sources: Source contrasts, robust z-scores.
        style_code: The style.
        brain: Brain mask of the slice.

    Returns:
        The T1ce without enhancement, robust z-scores, float32, zero outside the brain.
    """
    weights = torch.from_numpy(style_code.weights).float()
    image = render_style(weights, style_code.kind, torch.from_numpy(sources)).numpy()
    return (image * brain).astype(np.float32)


def fit_style(
    sources: Sequence[Volume3D], target: Volume3D, healthy_brain: Mask3D, kind: StyleKind = "linear"
) -> LinearRegression:
    """Fit the style of one patient in healthy brain.

    A linear style is fitted again without the voxels that enhance. Curves are fitted once: without these voxels they
    would lose the bright tissues that they have to follow.

    Args:
        sources: Source contrasts, robust z-scores.
        target: T1ce, robust z-scores.
        healthy_brain: Brain without tumour.
        kind: Linear or curves.

    Returns:
        The regression of this patient.

    Raises:
        InputError: One contrast is a copy of another.
    """
    region = healthy_brain
    for _ in range(FIT_ROUNDS[kind]):
        regression = LinearRegression(len(sources), kind)
        regression.add_patient(sources, target, region)
        try:
            residual = target - regression.predict(sources, healthy_brain)
        except np.linalg.LinAlgError as error:
            raise InputError(
                "one contrast is a copy of another, so the style of the T1ce cannot be fitted; "
                "check the files of this case"
            ) from error
        region = healthy_brain & (residual < MAX_STYLE_RESIDUAL)

    return regression
