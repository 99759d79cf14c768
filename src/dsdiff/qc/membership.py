"""Recognize a patient that a model was trained on: standardized features of the training patients.

A model remembers the features of its training patients (see `qc.features.measure_features`). A case is one of them if
its features equal those of that patient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dsdiff.qc.features import Features, tabulate_features

INDEXED_GROUPS = ("contrast", "detail")
Z_CLIP = 3.0  # standard deviations; one feature counts no more than this
SAME_PATIENT = 0.01  # standard deviations; of 47 patients, no two lie within 0.3
CaseFeatures = Mapping[str, Features]


@dataclass(frozen=True)
class TrainingSetIndex:
    """Features of the training patients, one row per patient.

    Attributes:
        names: Features, m of them.
        center, scale: By which they are standardized.
        rows: Standardized features, clipped to `Z_CLIP`.
    """

    names: tuple[str, ...]
    center: Float[np.ndarray, " m"]
    scale: Float[np.ndarray, " m"]
    rows: Float[np.ndarray, "p m"]

    def contains(self, features: CaseFeatures) -> bool:
        """Tell whether a case is one of the training patients.

        Args:
            features: Features of the case by group and name.

        Returns:
            True if a training patient has the same features.
        """
        return bool(np.sqrt(self.squared_distances(features).min()) < SAME_PATIENT)

    def to_dict(self) -> dict[str, Any]:
        """Convert the index to plain values.

        Returns:
            Lists and numbers that JSON can hold.
        """
        return {
            "names": list(self.names),
            "center": round_digits(self.center),
            "scale": round_digits(self.scale),
            "rows": round_digits(self.rows),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "TrainingSetIndex":
        """Build an index from plain values.

        Args:
            fields: What `to_dict` returned.

        Returns:
            The index.

        Raises:
            ValueError: The arrays do not match in shape.
            KeyError: A field is missing.
        """
        names = tuple(map(str, fields["names"]))
        center, scale, rows = (np.array(fields[name], np.float64) for name in ("center", "scale", "rows"))
        if rows.ndim != 2 or not rows.shape[1] == len(names) == len(center) == len(scale):
            raise ValueError(f"{len(names)} names do not match features of shape {rows.shape}")

        return TrainingSetIndex(names, center, scale, rows)

    def squared_distances(self, features: CaseFeatures) -> Float[np.ndarray, " p"]:
        """Compare a case with every training patient.

        Args:
            features: Features of the case by group and name.

        Returns:
            Mean squared difference of standardized features, over the features that the case has.
        """
        values = flatten_features(features)
        columns = [index for index, name in enumerate(self.names) if name in values]
        if not columns:
            return np.full(len(self.rows), Z_CLIP**2)

        row = np.array([values[self.names[index]] for index in columns])
        row = standardize(row, self.center[columns], self.scale[columns])

        return ((self.rows[:, columns] - row) ** 2).mean(1)


def fit_training_index(patients: Sequence[CaseFeatures]) -> TrainingSetIndex | None:
    """Index the features of training patients.

    Args:
        patients: Features of each patient by group and name.

    Returns:
        The index; None if there is no patient, or one without features.
    """
    if not patients or not all(patients):
        return None

    names, values = tabulate_features([flatten_features(patient) for patient in patients])
    center, scale = np.median(values, 0), np.maximum(values.std(0), 1e-3)

    return TrainingSetIndex(names, center, scale, standardize(values, center, scale))


def flatten_features(features: CaseFeatures) -> Features:
    """Merge the groups that an index uses (`INDEXED_GROUPS`).

    Args:
        features: Features by group and name.

    Returns:
        Features by name.
    """
    flat_features: Features = {}
    for group in INDEXED_GROUPS:
        flat_features |= features.get(group, {})

    return flat_features


def standardize(values: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Compute z-scores, clipped to `Z_CLIP`.

    Args:
        values: Features in the last dimension.
        center: Median of each.
        scale: Standard deviation of each.

    Returns:
        z-scores, of the shape of `values`.
    """
    return ((values - center) / scale).clip(-Z_CLIP, Z_CLIP)


def round_digits(values: np.ndarray) -> Any:
    """Round to six significant digits; no feature is measured more precisely.

    Args:
        values: An array of any shape.

    Returns:
        Nested lists of float.
    """
    return np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape).tolist()
