"""The batches of a training. Every slice follows from seed, step and its number in the step's batch alone.

So a run resumed at any step, with any number of workers, or with its batch shared among processes, sees the same
slices: process `rank` of `world` gets the slices from `rank * size` to before `(rank + 1) * size` of the global batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dsdiff.data import batch as batches
from dsdiff.data.batch import Batch
from dsdiff.data.cohort import Patient
from dsdiff.data.settings import DataConfig


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

    __getitem__ = at

    def _slice(self, step: int, number: int) -> Batch:
        """One slice: a phantom's or a patient's; augmented and without some contrasts if the config says so."""
        data, rng = self.data, np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(step, number)))
        simulated = bool(self.phantoms) and rng.random() < data.phantom_share
        patients = self.phantoms if simulated else self.training
        one = batches.draw(patients, 1, data.crop, data.slab, data.lesion_share, rng, data.style_dropout)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if data.augment:
            one = batches.augmented(one, generator)
        if data.contrast_dropout:
            one = batches.withheld(one, data.contrast_dropout, data.contrasts.index(data.start), generator)
        return one


def prefetched(
    drawn: Batches, first: int, last: int, workers: int = 0, *, ahead: int = 4, pin: bool = False
) -> Iterator[Batch]:
    """The batches of the steps from `first` to before `last`, in order, made by worker processes ahead of time.

    workers: 0 makes each when it is asked for. ahead: batches that each worker keeps ready. pin: for copies to a GPU.
    """
    own = torch.Generator()  # else the loader draws a number from the one that everybody shares
    yield from DataLoader(
        drawn,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        pin_memory=pin,
        generator=own,
    )
