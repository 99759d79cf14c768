"""What a comparison is asked to do, and where and how it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ComparisonOptions:
    """Where and how a comparison runs, whether it trains or not.

    Attributes:
        out: Output folder.
        protocol: Name of the scoring protocol, see `evaluation.protocols`.
        device: auto, cpu, cuda or mps.
        jobs: Number of trainings, and of prepared cases, at a time.
        allow_code: Import backbones that configs name by a dotted path.
    """

    out: Path
    protocol: str
    device: str
    jobs: int
    allow_code: bool


@dataclass(frozen=True)
class ComparisonRequest:
    """A comparison to train.

    Attributes:
        names: Config files or names of shipped configs, the reference first.
        overrides: KEY=VALUE changes for all candidates.
        recipe: Config that completes a file with only a backbone.
        data: Folder of cases.
        split: Split file; None reads OUT/split.json, and writes it first if it does not exist.
        folds: Number of folds to train and score; None takes all of them.
        limit: Limit of one training: an int is a number of steps, a float is a time in seconds.
        seeds_by_arm: Title of each arm to train -> number of seeds.
    """

    names: Sequence[str]
    overrides: Sequence[str]
    recipe: str
    data: Path
    split: Path | None
    folds: int | None
    limit: int | float
    seeds_by_arm: Mapping[str, int]
