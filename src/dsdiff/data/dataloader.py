"""The batches of a training. A slice follows from the seed, the step and its number in the batch of that step.

A resumed run therefore sees the same slices as one that was never stopped, for any number of workers and processes.
Process `rank` of `world_size` gets the slices `rank * size` to `(rank + 1) * size - 1` of the global batch.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dsdiff.data import batch_sampling
from dsdiff.data.batch_sampling import Batch
from dsdiff.data.dataset import TrainingPatient
from dsdiff.data.settings import DataConfig
from dsdiff.errors import DsdiffError
from dsdiff.system.signals import ignore_signals

PREFETCH_DEPTH = 3  # batches of the workers that are ready in the process that trains


@dataclass(frozen=True)
class TrainingBatches(Dataset):
    """The batches of one process, by step.

    Attributes:
        data: How slices are sampled.
        seed: Seed of the training.
        size: Slices of a step in each process: batch size times accumulation.
        training: Patients to train on.
        phantoms: Simulated patients, sampled `data.phantom_fraction` of the time.
        rank: Number of this process.
        world_size: Number of processes.
    """

    data: DataConfig
    seed: int
    size: int
    training: Sequence[TrainingPatient]
    phantoms: Sequence[TrainingPatient] = ()
    rank: int = 0
    world_size: int = 1

    def load_step(self, step: int) -> Batch:
        """Make this process' share of the batch of a step.

        Args:
            step: Number of the step. No earlier step is needed.

        Returns:
            `size` slices.

        Raises:
            InputError: A file of a store is damaged.
        """
        first = self.rank * self.size
        return Batch.concatenate([self._sample_slice(step, number) for number in range(first, first + self.size)])

    def __getitem__(self, step: int) -> Batch | DsdiffError:
        """Return the batch or the error: an error that a worker raises would arrive with a traceback in its message."""
        try:
            return self.load_step(step)
        except DsdiffError as error:
            return error

    def _sample_slice(self, step: int, number: int) -> Batch:
        """Sample and augment slice `number` of the global batch."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(step, number)))
        use_phantom = bool(self.phantoms) and rng.random() < self.data.phantom_fraction
        patients = self.phantoms if use_phantom else self.training
        plane = self.data.planes[int(rng.integers(len(self.data.planes)))]  # a single plane takes no random number

        batch = batch_sampling.sample_batch(patients, 1, self.data, rng, plane)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return batch_sampling.augment_batch(batch, self.data.augment, generator, plane)


def prefetch_batches(
    batches: TrainingBatches,
    first_step: int,
    last_step: int,
    workers: int = 0,
    *,
    prefetch_factor: int = 4,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Make the batches of consecutive steps ahead of time.

    Args:
        batches: The batches.
        first_step: The first step.
        last_step: The step after the last one.
        workers: Number of worker processes. With 0 a batch is made when it is asked for.
        prefetch_factor: Batches that each worker keeps ready.
        pin_memory: Put batches into page-locked memory, from which copies to a GPU are faster.

    Yields:
        The batches in the order of their steps.

    Raises:
        InputError: A file of a store is damaged.
    """
    loader = iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=range(first_step, last_step),
            num_workers=workers,
            prefetch_factor=prefetch_factor if workers else None,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else the loader takes a random number from torch's global generator
            worker_init_fn=ignore_signals,
        )
    )
    try:
        for batch in _receive_batches(loader) if workers else loader:
            if isinstance(batch, DsdiffError):
                raise batch
            yield batch
    finally:
        del loader  # a kept error keeps this frame alive, and the workers must end all the same


def _receive_batches(loader: Iterator[Batch | DsdiffError]) -> Iterator[Batch | DsdiffError]:
    """Receive the workers' batches in a thread: to open a tensor of another process takes a third of a millisecond."""
    batches = chain(loader, repeat(None))  # a loader must not be asked again after its end
    with ThreadPoolExecutor(1) as executor:
        pending = deque(executor.submit(next, batches) for _ in range(PREFETCH_DEPTH))
        try:
            while (batch := pending.popleft().result()) is not None:
                pending.append(executor.submit(next, batches))
                yield batch
        finally:
            for future in pending:
                future.cancel()
            del batches
