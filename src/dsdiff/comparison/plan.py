"""What is compared: candidates that differ in their backbone alone, the steps of each by arm, and the runs to do."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsdiff import schema
from dsdiff.backbones import registry
from dsdiff.config import overrides as overriding
from dsdiff.config import run as configs
from dsdiff.config.run import RunConfig
from dsdiff.data import splits, store
from dsdiff.errors import ConfigError, InputError
from dsdiff.model import checkpoint
from dsdiff.schema import TargetConfig, flat
from dsdiff.training.loop import CONFIG, MODEL

PARAMETERS, GMACS, EXISTING = "Equal parameters", "Equal GMACs", "Runs that exist"
SCORES = "scores.json"  # of a run's folder
SPLIT_SEED = 2024  # as dsdiff split deals
REGRESSION = "one-step regression"  # the reference's network without a diffusion process: a baseline
# Keys that candidates may differ in: their network, and how its training is adjusted to it. A step always sees as many
# slices, so that every candidate is given the same batches in the same order.
OWN = ("backbone", "training.lr", "training.warmup", "training.batch_size", "training.accumulate")
OF_A_RUN = ("seed", "data.fold", "training.steps", "training.validate_every", "training.save_every")


@dataclass(frozen=True)
class Candidate:
    """A config by its name; `config` says neither steps, seed nor fold that count."""

    name: str
    config: RunConfig

    @property
    def key(self) -> str:
        """What identifies it in files, whatever its steps, seed and fold."""
        kept = {key: value for key, value in flat(self.config).items() if key not in OF_A_RUN}
        return f"{self.name} {hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Run:
    """One training: where it is kept, its config with steps, seed, split and fold. cases: a folder whose held-out ones
    are scored."""

    folder: Path
    config: RunConfig
    cases: Path

    @property
    def fold(self) -> int:
        """The fold that it never sees. Raises `ConfigError` where it held out none: nothing could be scored."""
        if self.config.data.fold is None:
            raise ConfigError(f"{self.folder} was trained without data.split and data.fold: no patient is unseen")
        return self.config.data.fold


@dataclass(frozen=True)
class Method:
    """A candidate with its number of steps, and its runs over seeds and folds."""

    candidate: Candidate
    steps: int
    runs: tuple[Run, ...]


Arms = dict[str, tuple[Method, ...]]  # of each arm the reference first


def differences(ours: RunConfig, theirs: RunConfig) -> list[str]:
    """What makes two configs no fair comparison, as "key: ours / theirs"."""
    different = schema.differences(ours, theirs)
    mine = (*OWN, *OF_A_RUN)
    found = [
        f"{key}: {a} / {b}" for key, (a, b) in different.items() if key not in mine and key.split(".")[0] not in mine
    ]
    slices = [config.training.batch_size * config.training.accumulate for config in (ours, theirs)]
    if slices[0] != slices[1]:
        found.append(f"slices a step (training.batch_size x training.accumulate): {slices[0]} / {slices[1]}")
    return found


def refuse_unequal(candidates: Sequence[Candidate]) -> None:
    """Raise `ConfigError`, with what differs, unless all candidates differ from the first in their backbone alone."""
    first, *others = candidates
    for other in others:
        if found := differences(first.config, other.config):
            raise ConfigError(
                f"{first.name} and {other.name} differ in more than the backbone ({'; '.join(found[:5])}); "
                "set it for all of them by KEY=VALUE, or compare them on their own"
            )


def candidates(names: Sequence[str], overrides: Sequence[str], recipe: str) -> list[Candidate]:
    """The candidates of configs, the reference first; a file that holds a backbone alone is put into the recipe.

    Raises `ConfigError` for what is no config, one name twice, and configs that differ in more than the backbone.
    """
    found = []
    for name in names:
        alone = set(overriding.read(overriding.find(name))) <= {"backbone", "unet_config"}
        given = (recipe, (f"backbone={name}", *overrides)) if alone else (name, tuple(overrides))
        config = configs.load(*given)
        if why := chosen_by_scored(config):
            raise ConfigError(f"{name}: {why}; set training.ema to one decay and no training.patience")
        found.append(Candidate(Path(name).stem, config))
    stems = [candidate.name for candidate in found]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ConfigError(f"{twice[0]} is given twice; candidates go by the names of their files")
    refuse_unequal(found)
    return found


def regression(reference: Candidate) -> Candidate | None:
    """The baseline that has the reference's network and no diffusion; None where the reference is that already."""
    if reference.config.process.target == "regression":
        return None
    told = {"predict_error": True} if reference.config.build_process().predict_error else {}
    process = TargetConfig(target="regression", params=told)
    return Candidate(REGRESSION, reference.config.model_copy(update={"process": process, "sampler": None}))


def steps(
    asked: int | float, seconds: Mapping[str, float], macs: Mapping[str, int], reference: str
) -> dict[str, dict[str, int]]:
    """Steps by arm and candidate. asked: so many steps (int), or seconds of training (float).

    Equal parameters: as asked, each at its own pace. Equal GMACs: so that steps times GMACs are the reference's.
    """
    own = {name: asked if isinstance(asked, int) else max(1, int(asked / pace)) for name, pace in seconds.items()}
    if REGRESSION in own:
        own[REGRESSION] = own[reference]  # one network, one number of steps
    spent = own[reference] * macs[reference]
    return {PARAMETERS: own, GMACS: {name: max(1, round(spent / macs[name])) for name in own}}


def method(candidate: Candidate, steps: int, seeds: int, folds: int, root: Path, cases: Path) -> Method:
    """The runs of a candidate over seeds and folds, in folders of their own below `root`; `cases`: see `Run`."""
    base, runs = candidate.config, []
    training = base.training.model_copy(update={"steps": steps, "validate_every": steps})
    for seed in range(base.seed, base.seed + seeds):
        for fold in range(folds):
            data = base.data.model_copy(update={"fold": fold})
            config = base.model_copy(update={"seed": seed, "data": data, "training": training})
            folder = root / f"{candidate.name.replace(' ', '-')}-{steps}" / f"seed{seed}-fold{fold}"
            runs.append(Run(folder, config, cases))
    return Method(candidate, steps, tuple(runs))


def existing(root: Path, reference: str | None, cases: Path | None = None) -> Arms:
    """The finished runs below a folder, grouped by config whatever their seed and fold.

    cases: see `Run`; by default the `data.root` of each.
    reference: name of the method that the others are compared with; else one with the default backbone, else the first
    that is no one-step regression.
    Raises `InputError` where there is none, `ConfigError` for runs that are no fair comparison.
    """
    lacking = left_out(root)
    folders = [folder for folder in _runs_below(root) if str(folder.relative_to(root)) not in lacking]
    if not folders:
        raise InputError(
            f"{root} holds no finished run (a folder with {CONFIG} and {MODEL}/, by dsdiff train, or with {SCORES})"
            + "".join(f"; {name}: {why}" for name, why in [*lacking.items()][:1])
        )
    groups: dict[str, list[Run]] = {}
    for folder in folders:
        config = configs.load(folder / CONFIG)
        run = Run(folder, config, cases or _cases_of(config, folder))
        kept = {key: value for key, value in flat(run.config).items() if key not in OF_A_RUN}
        groups.setdefault(repr((run.config.training.steps, sorted(kept.items()))), []).append(run)
    if len(several := {int(checkpoint.facts_of(folder / MODEL).get("processes", 1)) for folder in folders}) > 1:
        numbers = " and ".join(map(str, sorted(several)))
        raise ConfigError(
            f"the runs of {root} were trained by {numbers} processes, and a step sees as many times its slices: give "
            "the folder of those that were trained alike"
        )
    found = [_method_of(runs, root, set(folders)) for runs in groups.values()]
    diffuse = [
        m for m in found if m.candidate.config.process.target != "regression"
    ] or found  # a baseline is no reference
    default = registry.DEFAULT.target
    usual = next((m for m in diffuse if registry.name_of(m.candidate.config.backbone.target) == default), diffuse[0])
    named = {m.candidate.name: m for m in found}
    if reference is not None and reference not in named:
        raise ConfigError(f"--reference {reference} is not among the runs of {root}: {', '.join(named)}")
    first = named[reference] if reference else usual
    methods = (first, *(m for m in found if m is not first))
    _refuse_unlike(methods)
    return {EXISTING: methods}


def left_out(root: Path) -> dict[str, str]:
    """The runs below a folder that cannot be compared, and why."""
    found = {}
    for folder in _runs_below(root):
        name = str(folder.relative_to(root))
        if not _is_finished(folder):
            found[name] = f"not finished: neither {MODEL}/ nor {SCORES}"
            continue
        try:
            if why := chosen_by_scored(configs.load(folder / CONFIG)):
                found[name] = why
        except ConfigError as error:  # of a backbone that is not installed here, or of another version
            found[name] = str(error)
    return found


def chosen_by_scored(config: RunConfig) -> str:
    """Why a run's weights would be chosen by the very patients that they are scored on; "" where they are not."""
    if len(config.training.ema) > 1:
        return "training.ema has several decays, of which the patients held out chose one, and they are to be scored"
    if config.training.patience:
        return "training.patience ended it where the patients held out were best, and they are to be scored"
    return ""


def _runs_below(root: Path) -> list[Path]:
    """Every folder of a run, finished or not; a model's own folder, which keeps a config as well, is none."""
    folders = (path.parent for path in root.rglob(CONFIG))
    return sorted(folder for folder in folders if not (folder / checkpoint.WEIGHTS).exists())


def _is_finished(run: Path) -> bool:
    return (run / MODEL).is_dir() or (run / SCORES).is_file()


def _cases_of(config: RunConfig, folder: Path) -> Path:
    """Where a run's cases are, by its config. Raises `ConfigError` where that tells of none."""
    if config.data.root is None or store.is_store(config.data.root):
        raise ConfigError(f"{folder} was not trained on a folder of cases; give --data, the folder to score it on")
    return config.data.root


def _refuse_unlike(methods: Sequence[Method]) -> None:
    """Raise `ConfigError` unless each is like the first, or like its regression, and scored on the same patients."""
    plain, candidates = regression(methods[0].candidate), [method.candidate for method in methods]
    baselines = [one for one in candidates if plain and one.config.process == plain.config.process]
    refuse_unequal([one for one in candidates if one not in baselines])
    if plain:
        refuse_unequal([plain, *baselines])
    for method in methods:
        _same_patients(methods[0], method)


def _same_patients(reference: Method, other: Method) -> None:
    """Raise `ConfigError` unless a method has one run for each of the reference's folds under each of its seeds."""
    wanted = sorted({run.fold for run in reference.runs})
    for seed in {run.config.seed for run in other.runs}:
        there = sorted(run.fold for run in other.runs if run.config.seed == seed)
        if there != wanted:
            raise ConfigError(
                f"{other.candidate.name} has runs of folds {there} under seed {seed}; {reference.candidate.name} is "
                f"scored on folds {wanted}, and methods must be scored on the same patients, once a seed"
            )


def _method_of(runs: Sequence[Run], root: Path, everyone: set[Path]) -> Method:
    """Runs of one config, named by the folder that holds them and no others of `everyone`, or by the first one's."""
    folders = [run.folder for run in runs]
    within = Path(os.path.commonpath(folders))
    mixed = any(within in other.parents for other in everyone - set(folders))
    place = folders[0] if mixed or within == root else within
    return Method(Candidate(str(place.relative_to(root)), runs[0].config), runs[0].config.training.steps, tuple(runs))


def split(file: Path | None, names: Sequence[str], folds: int | None, out: Path) -> tuple[Path, int]:
    """The split file and how many of its folds to use: the one given, or OUT/split.json, written where it is not."""
    place = file or (out / "split.json").resolve()
    if not place.is_file() and file is None:
        splits.write(splits.make(list(names), max(2, folds or 3), SPLIT_SEED), place)
    there = len(splits.read(place).folds)
    if folds is not None and not 1 <= folds <= there:
        raise ConfigError(f"--folds {folds} of {place} cannot be taken: it has {there}")
    return place, folds or there
