"""Folds of patients, written once to a file whose hash goes into every result."""

import hashlib
import json
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from dsdiff.errors import ConfigError
from dsdiff.io.file_names import patient_id
from dsdiff.system.atomic import atomic_write_text


@dataclass(frozen=True)
class Split:
    """Folds of cases. A model of fold k is scored on fold k, and never trained on it.

    Attributes:
        folds: Names of the cases of each fold.
        seed: Seed of the shuffle.
    """

    folds: tuple[tuple[str, ...], ...]
    seed: int

    @property
    def hash(self) -> str:
        """A hash of the folds.

        Returns:
            The first 12 hex digits of a SHA-256.
        """
        return hashlib.sha256(json.dumps(self.folds).encode()).hexdigest()[:12]

    def held_out(self, fold: int) -> tuple[str, ...]:
        """Return the cases of one fold.

        Args:
            fold: Number of the fold, from 0.

        Returns:
            Names of cases.

        Raises:
            ConfigError: The split has no such fold.
        """
        if not 0 <= fold < len(self.folds):
            raise ConfigError(f"fold {fold} is not in this split; it has folds 0 to {len(self.folds) - 1}")
        return self.folds[fold]


def make(cases: list[str], n_folds: int, seed: int) -> Split:
    """Distribute patients over folds at random. All visits of a patient (see `patient_id`) go to one fold.

    Args:
        cases: Names of cases.
        n_folds: Number of folds, at least 2. Their numbers of patients differ by one at most.
        seed: Seed of the shuffle.

    Returns:
        The split.

    Raises:
        ConfigError: There are fewer than 2 folds, or fewer patients than folds.
    """
    visits: dict[str, list[str]] = {}
    for case in sorted(cases):
        visits.setdefault(patient_id(case), []).append(case)
    if n_folds < 2:
        raise ConfigError(f"a split needs 2 folds or more; {n_folds} was given")
    if n_folds > len(visits):
        raise ConfigError(f"{n_folds} folds need {n_folds} patients or more; the cohort has {len(visits)}")

    patients = list(map(str, np.random.default_rng(seed).permutation(sorted(visits))))
    folds = []
    for fold in range(n_folds):
        names = chain.from_iterable(visits[patient] for patient in patients[fold::n_folds])
        folds.append(tuple(sorted(names)))
    return Split(tuple(folds), seed)


def write(split: Split, path: Path) -> None:
    """Write a split with its hash.

    Args:
        split: The split.
        path: The file.

    Raises:
        OutputError: The file cannot be written.
    """
    content = {"hash": split.hash, "seed": split.seed, "folds": split.folds}
    atomic_write_text(path, json.dumps(content, indent=1) + "\n")


def read(path: Path) -> Split:
    """Read a split.

    Args:
        path: The file.

    Returns:
        The split.

    Raises:
        ConfigError: The file is not a split, or it was changed after it was written.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        split = Split(tuple(tuple(map(str, fold)) for fold in content["folds"]), int(content["seed"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a split file ({error}); dsdiff split makes one") from error
    if split.hash != content.get("hash"):
        raise ConfigError(
            f"{path} was changed after it was written: its hash is {split.hash}, expected {content.get('hash')}; make "
            "another split with dsdiff split"
        )
    return split
