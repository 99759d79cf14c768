"""The patients of a training: where their slices lie, which are held out, and the styles of their targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Integer
from rich.console import Console

from dsdiff.data import cases, preprocess, splits, style
from dsdiff.data.cases import Case
from dsdiff.data.labels import TUMOUR, enhancing_label
from dsdiff.data.settings import DataConfig
from dsdiff.data.style import LinearRegression
from dsdiff.errors import ConfigError
from dsdiff.progress import bars

Code = Float[np.ndarray, " f"]  # of a style: see `data.style`


class Slab(NamedTuple):
    """A slice and its neighbours: robust z-scores; region as in `Slices`, and like the target of the slice alone."""

    sources: Float[np.ndarray, "s d x y"]
    target: Float[np.ndarray, "x y"]
    region: Integer[np.ndarray, "x y"]


@runtime_checkable
class Slices(Protocol):
    """One case in the brain's bounding box, wherever it lies: robust z-scores as float16, slices first.

    region: 0 outside, 1 brain, 2 tumour, 3 enhancing.
    """

    def peak(self) -> Integer[np.ndarray, " z"]:
        """The highest region of every slice."""
        ...

    def read(self, first: int, last: int, z: int) -> Slab:
        """Sources of the slices from `first` to before `last`, target and region of slice `z`."""
        ...

    def whole(self) -> tuple[Float[np.ndarray, "c z x y"], Integer[np.ndarray, "z x y"]]:
        """Sources, then the target; and the region."""
        ...

    def style(self) -> LinearRegression:
        """The target's own style."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Slices in memory."""

    images: Float[np.ndarray, "c z x y"]  # sources, then the target; float16
    region: Integer[np.ndarray, "z x y"]

    def peak(self) -> Integer[np.ndarray, " z"]:
        return self.region.max((1, 2))

    def read(self, first: int, last: int, z: int) -> Slab:
        return Slab(self.images[:-1, first:last], self.images[-1, z], self.region[z])

    def whole(self) -> tuple[Float[np.ndarray, "c z x y"], Integer[np.ndarray, "z x y"]]:
        return self.images, self.region

    def style(self) -> LinearRegression:
        *sources, target = self.images
        return style.own_style(sources, target.astype(np.float32), self.region == 1)


@dataclass(frozen=True)
class Patient:
    """One case as training draws it.

    change: what is added to the target, as a code of a style; None leaves it as it is.
    styles: codes of the target's own style and of the average one, where style is to be told.
    """

    name: str
    slices: Slices
    peak: Integer[np.ndarray, " z"]
    change: Code | None = None
    styles: tuple[Code, Code] | None = None

    @staticmethod
    def of(name: str, slices: Slices) -> "Patient":
        """The patient of some slices, its target untouched."""
        return Patient(name, slices, slices.peak())

    def slices_with(self, least: int) -> Integer[np.ndarray, " n"]:
        """Slices in which some voxel's region is at least `least`."""
        return np.flatnonzero(self.peak >= least)

    def slab(self, z: int, depth: int) -> Slab:
        """A slice between its neighbours, which are zero beyond the first and the last; float32."""
        first, last = max(z - depth // 2, 0), min(z + depth // 2 + 1, len(self.peak))
        read, before = self.slices.read(first, last, z), first - (z - depth // 2)
        sources = np.zeros((len(read.sources), depth, *read.region.shape), np.float32)
        sources[:, before : before + last - first] = read.sources
        target = read.target.astype(np.float32)
        if self.change is not None:
            target += style.told(sources[:, depth // 2], self.change, read.region > 0)
        return Slab(sources, target, read.region)


@dataclass(frozen=True)
class Cohort:
    """Patients to train on, simulated ones to mix in, and patients held out for validation."""

    training: Sequence[Patient]
    phantoms: Sequence[Patient] = ()
    held_out: Sequence[Patient] = ()


def load(case: Case, contrasts: Sequence[str], target: str, start: str = "t1") -> Patient:
    """Read and prepare one training case; the brain is that of `start`. Raises what reading and preparing raise."""
    wanted = (*contrasts, target, *(("seg",) if "seg" in case.files else ()))
    volumes = cases.load(case, wanted)
    seg = volumes.pop("seg", None)
    prepared = preprocess.apply(volumes, start)
    region = prepared.brain.astype(np.uint8)
    if seg is not None:
        labels = preprocess.to_canonical(seg).array
        region[np.isin(labels, TUMOUR) & prepared.brain] = 2
        region[(labels == enhancing_label(labels)) & prepared.brain] = 3
    box = tuple(slice(edge.min(), edge.max() + 1) for edge in np.nonzero(prepared.brain))
    images = np.stack([prepared.images[name][box] for name in (*contrasts, target)]).astype(np.float16)
    kept = InMemory(images.transpose(0, 3, 1, 2).copy(), region[box].transpose(2, 0, 1).copy())
    return Patient.of(case.name, kept)


def average_style(patients: Sequence[Patient]) -> LinearRegression:
    """The average style of these patients' targets (see `data.style`)."""
    return LinearRegression.merged(patient.slices.style() for patient in patients)


def in_style(patients: Sequence[Patient], wanted: LinearRegression) -> list[Patient]:
    """The patients with their targets in one style: what no input can tell is taken out of what is asked for."""
    code = wanted.weights
    return [replace(patient, change=code - patient.slices.style().weights) for patient in patients]


def with_styles(patients: Sequence[Patient], average: LinearRegression) -> list[Patient]:
    """The patients with the codes of their targets' own style and of the average one."""
    return [replace(patient, styles=(patient.slices.style().weights, average.weights)) for patient in patients]


def gather(data: DataConfig, told: bool, console: Console) -> Cohort:
    """The patients that a config names; with `told`, each with the style of its target.

    Raises `ConfigError` where there is nothing to train on, and what reading the cases raises.
    """
    real = cases.discover(data.root) if data.root else []
    simulated = cases.discover(data.phantoms) if data.phantoms else []
    if data.phantom_share and not simulated:
        console.print(f"phantom_share is {data.phantom_share}, but data.phantoms names no folder: none are drawn")
    if not real and not simulated:
        raise ConfigError("data.root or data.phantoms is needed: there is nothing to train on")
    held_out: tuple[str, ...] = ()
    if data.split is not None and data.fold is not None:
        held_out = splits.read(data.split).held_out(data.fold)
        if lost := sorted(set(held_out) - {case.name for case in real}):
            raise ConfigError(f"{data.split} names cases that {data.root} does not hold: {', '.join(lost[:3])}")
    loaded: dict[str, list[Patient]] = {"train": [], "phantom": [], "held": []}
    with bars(console, count=True) as progress:
        task = progress.add_task("reading patients", total=len(real) + len(simulated))
        for kind, group in (("train", real), ("phantom", simulated)):
            for case in group:
                into = "held" if case.name in held_out else kind
                loaded[into].append(load(case, data.contrasts, data.target, data.start))
                progress.advance(task)
    if data.target_style == "average" or told:
        change = in_style if data.target_style == "average" else with_styles
        average = average_style(loaded["train"] or loaded["phantom"])
        loaded |= {kind: change(loaded[kind], average) for kind in ("train", "phantom")}
    return Cohort(loaded["train"] or loaded["phantom"], loaded["phantom"], loaded["held"])
