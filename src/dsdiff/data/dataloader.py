"""The batches of a training. Every slice follows from seed, step and its number in the step's batch alone.

So a run resumed at any step, with any number of workers, or with its batch shared among processes, sees the same
slices: process `rank` of `world` gets the slices from `rank * size` to before `(rank + 1) * size` of the global batch.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from dsdiff.data import batch_sampling as batches
from dsdiff.data import dataset, splits, store
from dsdiff.data.batch_sampling import Batch
from dsdiff.data.dataset import Cohort, Patient
from dsdiff.data.settings import DataConfig
from dsdiff.errors import ConfigError, DsdiffError
from dsdiff.io import cases
from dsdiff.io.cases import patient_of
from dsdiff.style import retrieval
from dsdiff.system.console import bars, say
from dsdiff.system.signals import deaf

TAKEN_OVER = 3  # batches ready in the process that trains


@dataclass(frozen=True)
class Batches(Dataset):
    """What one process draws, step by step. size: slices of a step in each process (batch size times accumulation)."""

    data: DataConfig
    seed: int
    size: int
    training: Sequence[Patient]
    phantoms: Sequence[Patient] = ()
    rank: int = 0
    world: int = 1

    def at(self, step: int) -> Batch:
        """This process' share of the batch of a step; needs no step before it."""
        first = self.rank * self.size
        return Batch.joined([self._slice(step, number) for number in range(first, first + self.size)])

    def __getitem__(self, step: int) -> Batch | DsdiffError:
        """What a worker hands over: the batch, or an error, to which raising it there would add a traceback."""
        try:
            return self.at(step)
        except DsdiffError as error:
            return error

    def _slice(self, step: int, number: int) -> Batch:
        """One slice: a phantom's or a patient's; augmented and without some contrasts if the config says so."""
        data, rng = self.data, np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(step, number)))
        simulated = bool(self.phantoms) and rng.random() < data.phantom_fraction
        patients = self.phantoms if simulated else self.training
        kept = data.contrasts.index(data.source_contrast)
        dropouts = (data.style_dropout, data.contrast_dropout)
        plane = data.planes[int(rng.integers(len(data.planes)))]  # of one plane this draws nothing
        one = batches.draw(
            patients, 1, data.crop, data.context_slices, data.lesion_fraction, rng, *dropouts, kept, plane
        )
        return batches.augmented(one, data.augment, torch.Generator().manual_seed(int(rng.integers(2**62))), plane)


def prefetched(
    drawn: Batches, first: int, last: int, workers: int = 0, *, ahead: int = 4, pin: bool = False
) -> Iterator[Batch]:
    """The batches of the steps from `first` to before `last`, in order, made by worker processes ahead of time.

    workers: 0 makes each when it is asked for. ahead: batches that each worker keeps ready. pin: for copies to a GPU.
    Raises `InputError` where a file of a store is damaged.
    """
    own = torch.Generator()  # else the loader draws a number from the one that everybody shares
    made = iter(
        DataLoader(
            drawn,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            prefetch_factor=ahead if workers else None,
            pin_memory=pin,
            generator=own,
            worker_init_fn=deaf,
        )
    )
    try:
        for batch in _fetched(made) if workers else made:
            if isinstance(batch, DsdiffError):
                raise batch
            yield batch
    finally:
        del made  # whoever keeps the error keeps this frame: its workers must end all the same


def _fetched(made: Iterator[Batch | DsdiffError]) -> Iterator[Batch | DsdiffError]:
    """What workers have made, taken over while others are used: a tensor of theirs costs a third of a millisecond."""
    ended = chain(made, repeat(None))  # a loader must not be asked again after its end
    with ThreadPoolExecutor(1) as aside:
        coming = deque(aside.submit(next, ended) for _ in range(TAKEN_OVER))
        try:
            while (batch := coming.popleft().result()) is not None:
                coming.append(aside.submit(next, ended))
                yield batch
        finally:
            for late in coming:
                late.cancel()
            del ended


def gather(data: DataConfig, told: str, console: Console) -> Cohort:
    """The patients that a config names, of stores or of folders; with `told`, a kind of `style.KNOTS` or "none", each
    with the style of its target.

    Raises `ConfigError` where there is nothing to train on, and what reading the cases raises.
    """
    if data.root is None and data.phantoms is None:
        raise ConfigError("data.root or data.phantoms is needed: there is nothing to train on")
    if data.phantom_fraction and data.phantoms is None:
        console.print(f"phantom_fraction is {data.phantom_fraction}, but data.phantoms names no folder: none are drawn")
    real = read(data.root, data, console) if data.root else []
    phantoms = read(data.phantoms, data, console) if data.phantoms else []
    held_out = _held_out(data, real, phantoms, console)
    unseen = set(map(patient_of, held_out))  # later visits too
    training = [patient for patient in real if patient_of(patient.name) not in unseen]
    held, styles = [patient for patient in real if patient.name in held_out], None
    if not training and not phantoms:
        raise ConfigError(
            f"fold {data.fold} of {data.split} holds out every patient of {data.root}: nobody to train on"
        )
    if data.target_style == "average":
        average = dataset.average_style(training or phantoms)
        training, phantoms = dataset.in_style(training, average), dataset.in_style(phantoms, average)
    elif told != "none":
        if phantoms:
            phantoms, styles = dataset.with_styles(phantoms, told)
        if training:
            training, styles = dataset.with_styles(training, told)
            if styles.nearest is not None and phantoms:
                measured, theirs = zip(*((one.measured, one.slices.style(told)) for one in phantoms), strict=True)
                styles = replace(styles, nearest=retrieval.beside(styles.nearest, measured, theirs))
        assert styles is not None
        if told == "curves" and styles.nearest is None:
            console.print(
                f"{len(training or phantoms)} patients are too few to say which styles go with which cases: those held "
                "out, and new ones, are told the average"
            )
        held = dataset.with_expected(held, styles)
    return Cohort(training or phantoms, phantoms, held, styles)


def _held_out(
    data: DataConfig, real: Sequence[Patient], phantoms: Sequence[Patient], console: Console
) -> tuple[str, ...]:
    """The cases of the fold that is not trained on. Raises `ConfigError` where the split is not one of these cases."""
    if data.split is None or data.fold is None:
        return ()
    split, names = splits.read(data.split), {patient.name for patient in real}
    held_out = split.held_out(data.fold)
    if lost := sorted(set(held_out) - names):
        raise ConfigError(f"{data.split} names cases that {data.root} does not hold: {', '.join(lost[:3])}")
    unseen = set(map(patient_of, held_out))
    if both := sorted(patient.name for patient in phantoms if patient_of(patient.name) in unseen):
        raise ConfigError(
            f"data.phantoms {data.phantoms} holds cases of the fold that is held out ({', '.join(both[:3])}): they "
            "would be trained on"
        )
    beside = sorted(names.difference(*split.folds))
    if visits := [name for name in beside if patient_of(name) in unseen]:
        say(console, f"visits of patients that are held out, in no fold of {data.split}, left out: {', '.join(visits)}")
    if beside := [name for name in beside if name not in visits]:
        listed = ", ".join(beside[:5]) + " ..." * (len(beside) > 5)
        say(console, f"{len(beside)} patients of {data.root} are in no fold of {data.split}, and trained on: {listed}")
    return held_out


def fingerprints(data: DataConfig) -> dict[str, str]:
    """Hashes that change with the patients of a config: of its split, its data.root and its data.phantoms, those that
    are there.
    """
    found = {} if data.split is None else {"split": splits.read(data.split).hash}
    roots = {"store": data.root, "phantoms": data.phantoms}
    return found | {name: _fingerprint(root, data) for name, root in roots.items() if root and root.exists()}


def _fingerprint(root: Path, data: DataConfig) -> str:
    """The hash of a store, or of the files of a folder of cases that are read."""
    if store.is_store(root):
        return store.open_store(root).hash
    read_ones = (*data.contrasts, data.target, "seg")
    files = {
        case.name: {name: cases.file_hash(case.files[name]) for name in read_ones if name in case.files}
        for case in cases.discover(root)
    }
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]


def read(root: Path, data: DataConfig, console: Console) -> list[Patient]:
    """The patients of a store, read as they are drawn, or of a folder of cases, read into memory at once."""
    if store.is_store(root):
        return store.open_store(root).patients(data.contrasts, data.target, data.source_contrast, data.planes)
    found, loaded = cases.discover(root), []
    with bars(console, count=True) as progress:
        task = progress.add_task("reading patients", total=len(found))
        for case in found:
            loaded.append(dataset.load(case, data.contrasts, data.target, data.source_contrast))
            progress.advance(task)
    size = sum(sum(array.nbytes for array in patient.slices.whole()) for patient in loaded)
    console.print(
        f"{root}: {len(loaded)} patients, {size / 1e9:.2f} GB of memory (a store, dsdiff prepare, takes none)"
    )
    return loaded
