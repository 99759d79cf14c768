"""Recognize a patient that a model was trained on: standardized features of the training patients.

A model remembers the features of its training patients (see `qc.ood.measure`). A case whose features equal those of
one of them is that patient.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dsdiff.errors import ModelError
from dsdiff.qc.ood import Measurements

GROUPS = ("contrast", "detail")
Z_CLIP = 3.0  # standard deviations; one feature counts no more than this
SAME_PATIENT = 0.01  # standard deviations; of 47 patients, no two lie within 0.3
Measured = Mapping[str, Measurements]


@dataclass(frozen=True)
class TrainingSetIndex:
    """Features of the training patients, one row per patient.

    names: Features, m of them.
    center, scale: By which they are standardized.
    rows: Standardized features, clipped to `Z_CLIP`.
    """

    names: tuple[str, ...]
    center: Float[np.ndarray, " m"]
    scale: Float[np.ndarray, " m"]
    rows: Float[np.ndarray, "p m"]

    def contains(self, features: Measured) -> bool:
        """Tell whether a case with these features is one of the training patients."""
        return bool(np.sqrt(self.squared_distances(features).min()) < SAME_PATIENT)

    def dump(self) -> str:
        """Return the index as JSON."""
        return json.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the index as lists and numbers that JSON can hold."""
        return {
            "names": self.names,
            "middle": round_digits(self.center),
            "width": round_digits(self.scale),
            "rows": round_digits(self.rows),
        }

    def squared_distances(self, features: Measured) -> Float[np.ndarray, " p"]:
        """Return the mean squared distance of a case to every patient, over the features that the case has."""
        values = flatten(features)
        columns = [index for index, name in enumerate(self.names) if name in values]
        if not columns:
            return np.full(len(self.rows), Z_CLIP**2)

        row = np.array([values[self.names[index]] for index in columns])
        row = standardize(row, self.center[columns], self.scale[columns])

        return ((self.rows[:, columns] - row) ** 2).mean(1)


def fit_index(patients: Sequence[Measured]) -> TrainingSetIndex | None:
    """Index the features of training patients; None if there is no patient, or one without features."""
    if not patients or not all(patients):
        return None

    flat = [flatten(patient) for patient in patients]
    names = tuple(name for name in flat[0] if all(name in features for features in flat))
    values = np.array([[features[name] for name in names] for features in flat])
    center, scale = np.median(values, 0), np.maximum(values.std(0), 1e-3)

    return TrainingSetIndex(names, center, scale, standardize(values, center, scale))


def parse_index(text: str, source: str) -> TrainingSetIndex:
    """Read what `TrainingSetIndex.dump` wrote.

    Raises:
        ModelError: The text is anything else; `source` names the model in the message.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        center, scale, rows = (np.array(fields[name], np.float64) for name in ("middle", "width", "rows"))
        names = tuple(map(str, fields["names"]))
        if rows.ndim != 2 or not rows.shape[1] == len(names) == len(center) == len(scale):
            raise ValueError(f"features are of shape {rows.shape}")
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{source}: the features of its training patients are damaged ({error})") from error

    return TrainingSetIndex(names, center, scale, rows)


def flatten(features: Measured) -> Measurements:
    """Merge the feature groups `GROUPS` into one dictionary."""
    return {name: value for group in GROUPS for name, value in features.get(group, {}).items()}


def standardize(values: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return z-scores, clipped to `Z_CLIP`."""
    return ((values - center) / scale).clip(-Z_CLIP, Z_CLIP)


def round_digits(values: np.ndarray) -> Any:
    """Round to six significant digits, more than any feature is measured to, as nested lists."""
    return np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape).tolist()
