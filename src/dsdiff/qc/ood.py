"""Out-of-distribution detection: compare features of a case with those of the training patients.

A network returns an image for any input. Three groups of features tell whether the input resembles its training set:
- shape: the orientation of the head, and whether the skull is removed;
- contrast: whether each file is the contrast that its name says;
- detail: noise, blur, thick slices.

The distance of a case in a group is the Mahalanobis distance. Its correlations are shrunk halfway to zero, because the
patients are few. A case is flagged beyond `LIMIT_MARGIN` times the distance of the farthest training patient, where
each training patient is measured against the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsdiff.io.file_names import patient_id
from dsdiff.qc.features import FEATURE_GROUPS, Features, tabulate_features

LIMIT_MARGIN = 1.05  # of the largest distance of a training patient
MAX_EXCHANGED_RATIO = 0.75  # exchanging two contrasts brings none of 47 patients below this share of its distance
SHRINKAGE = 0.5  # of the correlations
Z_CLIP = 6.0  # standard deviations; one feature counts no more than this
MIN_PATIENTS = 8  # a detector is fitted on at least so many
GROUP_QUESTIONS = {
    "shape": "is it a skull-stripped head, oriented as its header says?",
    "contrast": "is each file the contrast that its name says?",
    "detail": "is it noisy, blurred, or of thick slices?",
}


@dataclass(frozen=True)
class FeatureGroup:
    """The distribution of one group of features over the training patients.

    Attributes:
        names: Features, m of them.
        center, scale: Median and standard deviation of each.
        correlation: m x m, shrunk.
        limit: Distance beyond which a case is out of distribution.
    """

    names: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    correlation: tuple[tuple[float, ...], ...]
    limit: float = float("inf")

    def to_dict(self) -> dict[str, Any]:
        """Convert the group to plain values.

        Returns:
            Lists and numbers that JSON can hold.
        """
        return {
            "names": list(self.names),
            "center": list(self.center),
            "scale": list(self.scale),
            "correlation": [list(row) for row in self.correlation],
            "limit": self.limit,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "FeatureGroup":
        """Build a group from plain values.

        Args:
            fields: What `to_dict` returned.

        Returns:
            The group.

        Raises:
            ValueError: The fields do not match in length.
            KeyError: A field is missing.
        """
        names = tuple(map(str, fields["names"]))
        center = tuple(map(float, fields["center"]))
        scale = tuple(map(float, fields["scale"]))
        correlation = tuple(tuple(map(float, row)) for row in fields["correlation"])
        if {len(center), len(scale), len(correlation), *map(len, correlation)} != {len(names)}:
            raise ValueError(f"{len(names)} names do not match the other fields of the group")

        return cls(names, center, scale, correlation, float(fields["limit"]))

    def z_scores(self, features: Features) -> dict[str, float]:
        """Standardize the features that a case has.

        Args:
            features: Features of this group by name.

        Returns:
            Signed distance of each feature from its center, in standard deviations.
        """
        columns = zip(self.names, self.center, self.scale, strict=True)

        return {name: (features[name] - center) / scale for name, center, scale in columns if name in features}

    def distance(self, features: Features) -> float:
        """Measure how far a case lies from the training patients.

        Args:
            features: Features of this group by name.

        Returns:
            Mahalanobis distance over the features that the case has, per feature; 0 if it has none.
        """
        z_by_name = self.z_scores(features)
        columns = [index for index, name in enumerate(self.names) if name in z_by_name]
        if not columns:
            return 0.0

        z = np.clip(list(z_by_name.values()), -Z_CLIP, Z_CLIP)
        correlation = np.array(self.correlation)[np.ix_(columns, columns)]

        return float(np.sqrt(z @ np.linalg.solve(correlation, z) / len(z)))


@dataclass(frozen=True)
class OODDetector:
    """Feature distributions of the training patients, one per group of features."""

    groups: dict[str, FeatureGroup]

    def scores(self, features: dict[str, Features]) -> dict[str, float]:
        """Score a case by group.

        Args:
            features: Features by group and name (see `features.measure_features`).

        Returns:
            Distance over the limit of each group; above 1 the case is out of distribution.
        """
        return {name: group.distance(features[name]) / group.limit for name, group in self.groups.items()}

    def warnings(self, features: dict[str, Features]) -> tuple[str, ...]:
        """Describe how a case differs from the training patients.

        Args:
            features: Features by group and name (see `features.measure_features`).

        Returns:
            One message if two contrasts seem exchanged, and one per group above its limit.
        """
        messages = []
        if exchanged_pair := self._exchanged_contrasts(features):
            messages.append(f"{exchanged_pair} seem exchanged: is each file the contrast that its name says?")
        for name, score in self.scores(features).items():
            if score > 1:
                messages.append(self._describe_outlier(name, score, features[name]))

        return tuple(messages)

    def _exchanged_contrasts(self, features: dict[str, Features]) -> str | None:
        """Return the pair ("t1 and t2") whose exchange brings the case much nearer to the training patients."""
        contrast = self.groups["contrast"]
        distances = {name: contrast.distance(features[name]) for name in features if name not in self.groups}
        nearest_pair = min(distances, key=distances.__getitem__, default=None)
        max_distance = MAX_EXCHANGED_RATIO * contrast.distance(features["contrast"])

        return nearest_pair if nearest_pair is not None and distances[nearest_pair] < max_distance else None

    def _describe_outlier(self, name: str, score: float, features: Features) -> str:
        group = self.groups[name]
        z = group.z_scores(features)
        feature = max(z, key=lambda key: abs(z[key]))
        usual_value = group.center[group.names.index(feature)]

        return (
            f"unlike the training patients in {name} ({score:.1f} times the limit; {feature} is "
            f"{features[feature]:.2f}, usually {usual_value:.2f}): {GROUP_QUESTIONS[name]}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert the detector to plain values.

        Returns:
            Lists and numbers that JSON can hold, by group.
        """
        return {name: group.to_dict() for name, group in self.groups.items()}

    @classmethod
    def from_dict(cls, groups: dict[str, Any]) -> "OODDetector":
        """Build a detector from plain values.

        Args:
            groups: What `to_dict` returned.

        Returns:
            The detector.

        Raises:
            ValueError: The fields of a group do not match in length.
            KeyError: A group or a field is missing.
        """
        return cls({name: FeatureGroup.from_dict(groups[name]) for name in FEATURE_GROUPS})


def fit_ood_detector(cases: Mapping[str, dict[str, Features]]) -> OODDetector | None:
    """Fit the feature distributions of the training patients.

    The limit of a group comes from the distance of each patient to the others; other visits of the same patient do not
    count as others.

    Args:
        cases: Features of each training case (see `features.measure_features`), by case name.

    Returns:
        The detector; None for fewer than `MIN_PATIENTS` patients.
    """
    patients = [patient_id(name) for name in cases]
    if len(set(patients)) < MIN_PATIENTS:
        return None

    groups = {}
    for name in FEATURE_GROUPS:
        rows = [case[name] for case in cases.values()]
        leave_one_out = {patient: _fit_group(_rows_without(rows, patients, patient)) for patient in set(patients)}
        distances = [leave_one_out[patient].distance(row) for row, patient in zip(rows, patients, strict=True)]
        groups[name] = _fit_group(rows, LIMIT_MARGIN * max(distances))

    return OODDetector(groups)


def _rows_without(rows: list[Features], patients: list[str], patient: str) -> list[Features]:
    return [row for row, row_patient in zip(rows, patients, strict=True) if row_patient != patient]


def _fit_group(rows: list[Features], limit: float = float("inf")) -> FeatureGroup:
    names, values = tabulate_features(rows)
    center = np.median(values, 0)
    scale = np.maximum(values.std(0), 1e-3)
    clipped_z = ((values - center) / scale).clip(-Z_CLIP, Z_CLIP)
    z = (clipped_z - clipped_z.mean(0)) / np.maximum(clipped_z.std(0), 1e-9)
    correlation = (1 - SHRINKAGE) * (z.T @ z) / len(rows)
    np.fill_diagonal(correlation, 1)

    return FeatureGroup(names, tuple(center.tolist()), tuple(scale.tolist()), _to_tuples(correlation.tolist()), limit)


def _to_tuples(value: Any) -> Any:
    return tuple(map(_to_tuples, value)) if isinstance(value, list) else value
