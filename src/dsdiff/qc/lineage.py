"""Which patients the parents of a model were trained on: the models whose weights it started from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsdiff.qc.membership import CaseFeatures, TrainingSetIndex

Fold = tuple[str, int]  # hash of a split, number of the fold that was held out
NO_FOLD: Fold = ("", -1)


@dataclass(frozen=True)
class PretrainingRecord:
    """What one parent model knows about its training patients.

    Attributes:
        fold: The fold that was held out.
        index: Features of the training patients; None if the model has none.
    """

    fold: Fold
    index: TrainingSetIndex | None

    def trained_on(self, features: CaseFeatures, fold: Fold = NO_FOLD) -> bool:
        """Tell whether this model was trained on a patient.

        Args:
            features: Features of the patient.
            fold: The fold that the patient belongs to, if known.

        Returns:
            True if the patient was not held out, or has the features of a training patient.
        """
        if self._same_split(fold):
            return self.fold != fold

        return self.index is not None and self.index.contains(features)

    def can_verify(self, fold: Fold) -> bool:
        """Tell whether a negative answer of `trained_on` can be trusted.

        Args:
            fold: The fold that the patients belong to.

        Returns:
            True if the model has features of its training patients, or held out a fold of the same split.
        """
        return self.index is not None or self._same_split(fold)

    def _same_split(self, fold: Fold) -> bool:
        return fold[0] != "" and self.fold[0] == fold[0]

    def to_dict(self) -> dict[str, Any]:
        """Convert the record to plain values.

        Returns:
            Lists and numbers that JSON can hold.
        """
        split, fold = self.fold
        index = None if self.index is None else TrainingSetIndex.to_dict(self.index)

        return {"split": split, "fold": fold, "index": index}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "PretrainingRecord":
        """Build a record from plain values.

        Args:
            fields: What `to_dict` returned.

        Returns:
            The record.

        Raises:
            ValueError: The fields do not match.
            KeyError: A field is missing.
        """
        index = None if fields["index"] is None else TrainingSetIndex.from_dict(fields["index"])

        return cls((str(fields["split"]), int(fields["fold"])), index)
