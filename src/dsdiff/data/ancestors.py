"""Whom a model and its ancestors were trained on: the models whose weights it began with, one after the other."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dsdiff.data import nearest
from dsdiff.data.nearest import Known, Measured
from dsdiff.errors import ModelError

Fold = tuple[str, int]  # the hash of a split, and the fold that was held out
NO_FOLD: Fold = ("", -1)


@dataclass(frozen=True)
class Ancestor:
    """What one model knows of its patients: the fold held out, and how they measured (None: it cannot say)."""

    fold: Fold
    known: Known | None

    def saw(self, measured: Measured, fold: Fold = NO_FOLD) -> bool:
        """Whether it was trained on a patient (of a fold) who measures so."""
        if self._same_split(fold):
            return self.fold != fold
        return self.known is not None and self.known.holds(measured)

    def can_tell(self, fold: Fold) -> bool:
        """Whether `saw` is right of the patients of a fold where it says no."""
        return self.known is not None or self._same_split(fold)

    def _same_split(self, fold: Fold) -> bool:
        return fold[0] != "" and self.fold[0] == fold[0]


def dump(models: Sequence[Ancestor]) -> str:
    """As JSON; "" for none."""
    told = [[*one.fold, json.dumps(Known.told(one.known)) if one.known else None] for one in models]
    return json.dumps(told) if told else ""


def parse(text: str, where: str) -> tuple[Ancestor, ...]:
    """What `dump` wrote. Raises `ModelError` for anything else."""
    try:
        told = [((str(split), int(fold)), known) for split, fold, known in json.loads(text or "[]")]
    except (ValueError, TypeError) as error:
        raise ModelError(f"{where} does not say whom its ancestors were trained on ({error})") from error
    return tuple(Ancestor(fold, nearest.parse_known(known, where) if known else None) for fold, known in told)
