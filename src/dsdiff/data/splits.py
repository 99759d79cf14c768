"""Patient-level folds, written once to a file whose hash goes into every result."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsdiff.errors import ConfigError
from dsdiff.io.cases import patient_of
from dsdiff.system.atomic import write_whole


@dataclass(frozen=True)
class Split:
    """Folds of case names; fold k is what a model of fold k is scored on and never sees."""

    folds: tuple[tuple[str, ...], ...]
    seed: int

    @property
    def hash(self) -> str:
        """The first 12 hex digits of the SHA-256 of the folds."""
        return hashlib.sha256(json.dumps(self.folds).encode()).hexdigest()[:12]

    def held_out(self, fold: int) -> tuple[str, ...]:
        """The cases of one fold. Raises `ConfigError` for a fold that is not there."""
        if not 0 <= fold < len(self.folds):
            raise ConfigError(f"fold {fold} is not in this split; it has folds 0 to {len(self.folds) - 1}")
        return self.folds[fold]


def refuse_other_fold(facts: Mapping[str, object], split: Path, fold: int, where: Path) -> None:
    """Raise `ConfigError` where a model, by its facts, was not trained without this fold of a split as it is today."""
    now, trained = (read(split).hash, fold), (facts.get("split"), facts.get("fold"))
    if trained != now:
        raise ConfigError(
            f"the model of {where} was trained without fold {trained[1]} of split {trained[0]}; fold {fold} of "
            f"{now[0]}, which {split} is now, may hold patients that it saw"
        )


def make(cases: list[str], n_folds: int, seed: int) -> Split:
    """Deal the patients, shuffled by `seed`, with all of their visits (see `cases.patient_of`) into folds whose numbers
    of patients differ by one at most. Raises `ConfigError` for fewer patients than folds.
    """
    visits: dict[str, list[str]] = {}
    for case in sorted(cases):
        visits.setdefault(patient_of(case), []).append(case)
    if not 2 <= n_folds <= len(visits):
        raise ConfigError(f"{n_folds} folds of {len(visits)} patients cannot be made; 2 to {len(visits)} can")
    order = list(map(str, np.random.default_rng(seed).permutation(sorted(visits))))
    dealt = [[case for patient in order[k::n_folds] for case in visits[patient]] for k in range(n_folds)]
    return Split(tuple(tuple(sorted(fold)) for fold in dealt), seed)


def write(split: Split, path: Path) -> None:
    """Write a split with its hash. Raises `OutputError` where it cannot be written."""
    told = {"hash": split.hash, "seed": split.seed, "folds": split.folds}
    write_whole(path, json.dumps(told, indent=1) + "\n")


def read(path: Path) -> Split:
    """Read a split. Raises `ConfigError` where the file is no split or was changed after it was hashed."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        split = Split(tuple(tuple(map(str, fold)) for fold in data["folds"]), int(data["seed"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a split file ({error})") from error
    if split.hash != data.get("hash"):
        raise ConfigError(f"{path} was changed after it was written: its hash is {split.hash}, not {data.get('hash')}")
    return split
