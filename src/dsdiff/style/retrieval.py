"""Style retrieval: the predicted style of a case is that of the training patients with the most similar sources.

A site has its own sequences, for T1ce as for the source contrasts. The relation between a case's contrasts, their noise
and their detail depend on the site. The style of a case is therefore predicted from its features (see `qc.ood`): the
regressions of the training patients (see `style.regression`) are averaged with Gaussian weights of the distance in
feature space. Phantoms predict the style of phantoms only, because simulated scanners are not those of hospitals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dsdiff.qc.membership import (
    CaseFeatures,
    TrainingSetIndex,
    fit_training_index,
    flatten_features,
    round_digits,
    standardize,
)
from dsdiff.qc.ood import MIN_PATIENTS
from dsdiff.style.regression import KNOTS, LinearRegression, StyleCode, StyleKind

KERNEL_WIDTH = 0.35  # standard deviation of the Gaussian, as a multiple of the root median squared distance
# A case is a phantom if its squared distance to the nearest phantom is below this share of that to the nearest
# patient (ADR 10).
MAX_PHANTOM_DISTANCE_RATIO = 0.75


@dataclass(frozen=True)
class StyleRetriever(TrainingSetIndex):
    """The features of training patients, then of phantoms, with the regression of every target.

    Attributes:
        regressions: One per row: the style of that patient's T1ce.
        n_phantoms: Number of phantoms, the last rows.
    """

    regressions: tuple[LinearRegression, ...]
    n_phantoms: int = 0

    def predict_style(self, features: CaseFeatures, exclude: Sequence[int] = ()) -> StyleCode:
        """Predict the style of a case.

        Args:
            features: Features of its sources.
            exclude: Rows to leave out.

        Returns:
            The mean style of the patients, or of the phantoms if the case is a phantom, weighted by similarity.
        """
        distances = self.squared_distances(features)
        is_patient = np.arange(len(self.rows)) < len(self.rows) - self.n_phantoms
        candidates = is_patient
        if self.n_phantoms > 0:
            nearest_patient, nearest_phantom = distances[is_patient].min(), distances[~is_patient].min()
            if nearest_phantom < MAX_PHANTOM_DISTANCE_RATIO * nearest_patient:
                candidates = ~is_patient

        rows = np.flatnonzero(candidates & ~np.isin(np.arange(len(is_patient)), exclude))
        distances = distances[rows]
        width = 2 * KERNEL_WIDTH**2 * max(float(np.median(distances)), 1e-12)
        weights = np.exp(-(distances - distances.min()) / width)

        regressions = [self.regressions[row] for row in rows]
        return LinearRegression.merge(regressions, (weights / weights.sum()).tolist()).style_code

    def to_dict(self) -> dict[str, Any]:
        """Convert to values that JSON can hold.

        Returns:
            The index with the regressions.
        """
        return super().to_dict() | {
            "n_phantoms": self.n_phantoms,
            "knots": list(KNOTS[self.regressions[0].kind]),
            "grams": round_digits(np.stack([regression.gram for regression in self.regressions])),
            "moments": round_digits(np.stack([regression.moment for regression in self.regressions])),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "StyleRetriever":
        """Build a retriever from the result of `to_dict`.

        Args:
            fields: The values.

        Returns:
            The retriever.

        Raises:
            ValueError: The values do not fit together.
            KeyError: A value is missing.
        """
        index = TrainingSetIndex.from_dict(fields)
        kind = _kind_of_knots(fields["knots"])
        grams, moments = (np.array(fields[name], np.float64) for name in ("grams", "moments"))
        regressions = tuple(
            LinearRegression.from_equations(gram, moment, kind) for gram, moment in zip(grams, moments, strict=True)
        )

        n_phantoms = int(fields["n_phantoms"])
        if len(regressions) != len(index.rows):
            raise ValueError(f"there are {len(regressions)} regressions for {len(index.rows)} patients")
        if not 0 <= n_phantoms < len(regressions):
            raise ValueError(f"{n_phantoms} of {len(regressions)} rows cannot be phantoms")

        return StyleRetriever(**vars(index), regressions=regressions, n_phantoms=n_phantoms)


def _kind_of_knots(knots: Sequence[float]) -> StyleKind:
    for kind, knots_of_kind in KNOTS.items():
        if list(knots_of_kind) == list(knots):
            return kind
    raise ValueError(f"no kind of style has the knots {knots}")


def fit_retriever(patients: Sequence[CaseFeatures], regressions: Sequence[LinearRegression]) -> StyleRetriever | None:
    """Build a retriever of training patients.

    Args:
        patients: Features of each patient's sources.
        regressions: The style of each patient's T1ce.

    Returns:
        The retriever; None if there are fewer than `qc.ood.MIN_PATIENTS` patients, or if one has no features.
    """
    index = fit_training_index(patients)
    if index is None or len(patients) < MIN_PATIENTS:
        return None
    return StyleRetriever(**vars(index), regressions=tuple(regressions))


def add_phantoms(
    retriever: StyleRetriever, phantoms: Sequence[CaseFeatures], regressions: Sequence[LinearRegression]
) -> StyleRetriever:
    """Add phantoms to a retriever of patients. Phantoms that lack a feature of the patients are left out.

    Args:
        retriever: Patients only.
        phantoms: Features of each phantom's sources.
        regressions: The style of each phantom's T1ce.

    Returns:
        A retriever of both.
    """
    rows, added_regressions = list(retriever.rows), []
    for phantom, regression in zip(phantoms, regressions, strict=True):
        features = flatten_features(phantom)
        if not set(retriever.names) <= set(features):
            continue
        values = np.array([features[name] for name in retriever.names])
        rows.append(standardize(values, retriever.center, retriever.scale))
        added_regressions.append(regression)

    return replace(
        retriever,
        rows=np.stack(rows),
        regressions=(*retriever.regressions, *added_regressions),
        n_phantoms=len(added_regressions),
    )
