"""Which patients the parents of a model were trained on: the models whose weights it started from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dsdiff.errors import ModelError
from dsdiff.qc.membership import Measured, TrainingSetIndex, parse_index

Fold = tuple[str, int]  # hash of a split, number of the fold that was held out
NO_FOLD: Fold = ("", -1)


@dataclass(frozen=True)
class PretrainingRecord:
    """What one parent model knows about its training patients.

    fold: The fold that was held out.
    index: Features of the training patients; None if the model has none.
    """

    fold: Fold
    index: TrainingSetIndex | None

    def trained_on(self, features: Measured, fold: Fold = NO_FOLD) -> bool:
        """Tell whether this model was trained on a patient.

        Args:
            features: Features of the patient.
            fold: The fold that the patient belongs to, if known.
        """
        if self._same_split(fold):
            return self.fold != fold

        return self.index is not None and self.index.contains(features)

    def can_verify(self, fold: Fold) -> bool:
        """Tell whether a negative answer of `trained_on` can be trusted for the patients of a fold."""
        return self.index is not None or self._same_split(fold)

    def _same_split(self, fold: Fold) -> bool:
        return fold[0] != "" and self.fold[0] == fold[0]


def dump(records: Sequence[PretrainingRecord]) -> str:
    """Return the records as JSON; "" for none."""
    if not records:
        return ""

    return json.dumps(
        [[*record.fold, json.dumps(record.index.to_dict()) if record.index else None] for record in records]
    )


def parse(text: str, source: str) -> tuple[PretrainingRecord, ...]:
    """Read what `dump` wrote.

    Raises:
        ModelError: The text is anything else; `source` names the model in the message.
    """
    try:
        rows = [((str(split), int(fold)), index) for split, fold, index in json.loads(text or "[]")]
    except (ValueError, TypeError) as error:
        raise ModelError(f"{source}: the record of its pretraining is damaged ({error})") from error

    return tuple(PretrainingRecord(fold, parse_index(index, source) if index else None) for fold, index in rows)
