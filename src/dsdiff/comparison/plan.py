"""The plan of a comparison: the methods of each arm, their training steps, and their runs over seeds and folds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dsdiff.comparison.candidates import REGRESSION_NAME, Candidate
from dsdiff.config.run import RunConfig
from dsdiff.errors import ConfigError
from dsdiff.io import splits

EQUAL_PARAMETERS = "Equal parameters"
EQUAL_GMACS = "Equal GMACs"
EXISTING_RUNS = "Existing runs"
SCORES_FILE = "scores.json"  # in the folder of a run
SPLIT_SEED = 2024  # the default seed of dsdiff split


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        folder: The run folder.
        config: The config with its steps, seed, split and fold.
        cases: Folder of cases; the held-out ones are scored.
    """

    folder: Path
    config: RunConfig
    cases: Path

    @property
    def fold(self) -> int:
        """The held-out fold.

        Returns:
            Index of the fold in the split.

        Raises:
            ConfigError: The run held out no fold, so no patient can be scored.
        """
        if self.config.data.fold is None:
            raise ConfigError(f"{self.folder} was trained without data.split and data.fold: it held out no patient")
        return self.config.data.fold


@dataclass(frozen=True)
class Method:
    """A candidate with its number of steps, and its runs over seeds and folds."""

    candidate: Candidate
    n_steps: int
    runs: tuple[Run, ...]

    @property
    def n_seeds(self) -> int:
        """Number of seeds.

        Returns:
            The number of different seeds of the runs.
        """
        return len({run.config.seed for run in self.runs})


MethodsByArm = dict[str, tuple[Method, ...]]  # title of an arm -> its methods, the reference first


def list_methods(arms: MethodsByArm) -> list[Method]:
    """List the methods of all arms.

    Args:
        arms: The methods of each arm.

    Returns:
        The methods; a candidate has one in each arm.
    """
    return list(chain.from_iterable(arms.values()))


def reference_fold_runs(arms: MethodsByArm) -> list[Run]:
    """Select one run of the reference for each fold.

    Args:
        arms: The methods of each arm, the reference first.

    Returns:
        The reference's runs with its first seed.
    """
    runs = list_methods(arms)[0].runs
    return [run for run in runs if run.config.seed == runs[0].config.seed]


def steps_by_arm(
    limit: int | float, seconds_per_step: Mapping[str, float], macs_by_candidate: Mapping[str, int], reference: str
) -> dict[str, dict[str, int]]:
    """Compute the training steps of every candidate in both arms.

    Equal parameters: each candidate trains for the limit at its own pace.
    Equal GMACs: steps times GMACs agree with those of the reference.

    Args:
        limit: Limit of one training: an int is a number of steps, a float is a time in seconds.
        seconds_per_step: Candidate name -> seconds of one training step.
        macs_by_candidate: Candidate name -> multiply-accumulates of one forward pass of one slice.
        reference: Name of the reference.

    Returns:
        Title of the arm -> candidate name -> number of steps, at least 1.
    """
    own_steps = {
        name: limit if isinstance(limit, int) else max(1, int(limit / seconds))
        for name, seconds in seconds_per_step.items()
    }
    if REGRESSION_NAME in own_steps:
        own_steps[REGRESSION_NAME] = own_steps[reference]  # the same network gets the same number of steps

    total_macs = own_steps[reference] * macs_by_candidate[reference]
    equal_macs = {name: max(1, round(total_macs / macs_by_candidate[name])) for name in own_steps}
    return {EQUAL_PARAMETERS: own_steps, EQUAL_GMACS: equal_macs}


@dataclass(frozen=True)
class RunGrid:
    """The grid of runs of one candidate.

    Attributes:
        root: Folder of all run folders.
        cases: Folder of cases; the held-out ones are scored.
        n_seeds: Number of seeds, counted up from the seed of the config.
        n_folds: Number of folds of the split to train and score.
    """

    root: Path
    cases: Path
    n_seeds: int
    n_folds: int


def build_method(candidate: Candidate, n_steps: int, grid: RunGrid) -> Method:
    """Build the runs of a candidate over all seeds and folds.

    Args:
        candidate: The candidate.
        n_steps: Training steps of each run.
        grid: Seeds, folds and folders.

    Returns:
        The method, with one run folder ROOT/NAME-STEPS/seedS-foldF for each run.
    """
    base = candidate.config
    training = base.training.model_copy(update={"steps": n_steps, "validate_every": n_steps})
    method_folder = grid.root / f"{candidate.name.replace(' ', '-')}-{n_steps}"

    runs = []
    for seed in range(base.seed, base.seed + grid.n_seeds):
        for fold in range(grid.n_folds):
            data = base.data.model_copy(update={"fold": fold})
            config = base.model_copy(update={"seed": seed, "data": data, "training": training})
            runs.append(Run(method_folder / f"seed{seed}-fold{fold}", config, grid.cases))
    return Method(candidate, n_steps, tuple(runs))


def resolve_split(
    split_file: Path | None, case_names: Sequence[str], n_folds: int | None, out: Path
) -> tuple[Path, int]:
    """Find the split file, or write OUT/split.json, and the number of folds to use.

    Args:
        split_file: An existing split file; None reads OUT/split.json, and writes it first if it does not exist.
        case_names: Names of all cases, for a new split.
        n_folds: Number of folds to use; None uses all of them (3 in a new split).
        out: Output folder of the comparison.

    Returns:
        Path of the split file, and the number of folds.

    Raises:
        ConfigError: The split has fewer folds than `n_folds`.
    """
    path = split_file or (out / "split.json").resolve()
    if split_file is None and not path.is_file():
        splits.write(splits.make(list(case_names), max(2, n_folds or 3), SPLIT_SEED), path)

    available = len(splits.read(path).folds)
    if n_folds is not None and not 1 <= n_folds <= available:
        raise ConfigError(f"--folds {n_folds}: the split {path} has {available} folds; give 1 to {available}")
    return path, n_folds or available
