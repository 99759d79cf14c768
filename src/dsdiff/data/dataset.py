"""The patients of a training: where their slices lie, which are held out, and the styles of their targets."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Integer

from dsdiff.io import cases
from dsdiff.io.cases import Case, patient_of
from dsdiff.io.segmentation import enhancing_label, tumour
from dsdiff.preprocessing import normalize, planes
from dsdiff.preprocessing.normalize import Scale
from dsdiff.preprocessing.planes import PLANES, Plane
from dsdiff.qc import ood
from dsdiff.qc.ood import Measurements
from dsdiff.style import regression
from dsdiff.style import retrieval as nearest
from dsdiff.style.regression import Code, LinearRegression
from dsdiff.style.retrieval import StyleRetriever
from dsdiff.volume import to_canonical

BRAIN, LESION, ENHANCING = 1, 2, 3  # what a voxel of a `region` is


class Slab(NamedTuple):
    """A slice and its neighbours: robust z-scores; region as in `Slices`, and like the target of the slice alone."""

    sources: Float[np.ndarray, "s d h w"]
    target: Float[np.ndarray, "h w"]
    region: Integer[np.ndarray, "h w"]


@runtime_checkable
class Slices(Protocol):
    """One case in the brain's bounding box, wherever it lies: robust z-scores as float16, slices first.

    Slices are read along any of its `planes`. region: 0 outside, then BRAIN, LESION (all of the tumour) or ENHANCING.
    """

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Those that slices can be read along."""
        ...

    def peak(self, plane: Plane) -> Integer[np.ndarray, " n"]:
        """The highest region of every slice of a plane."""
        ...

    def read(self, first: int, last: int, at: int, plane: Plane) -> Slab:
        """Sources of the slices from `first` to before `last`, target and region of slice `at` of a plane."""
        ...

    def whole(self) -> tuple[Float[np.ndarray, "c z x y"], Integer[np.ndarray, "z x y"]]:
        """Sources, then the target; and the region."""
        ...

    def style(self, kind: str = "linear") -> LinearRegression:
        """The target's own style, of a kind of `style.KNOTS`."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Slices in memory."""

    images: Float[np.ndarray, "c z x y"]  # sources, then the target; float16
    region: Integer[np.ndarray, "z x y"]
    planes = PLANES

    def peak(self, plane: Plane) -> Integer[np.ndarray, " n"]:
        return planes.sliced(self.region, plane).max((1, 2))

    def read(self, first: int, last: int, at: int, plane: Plane) -> Slab:
        images = planes.sliced(self.images, plane)
        return Slab(images[:-1, first:last], images[-1, at], planes.sliced(self.region, plane)[at])

    def whole(self) -> tuple[Float[np.ndarray, "c z x y"], Integer[np.ndarray, "z x y"]]:
        return self.images, self.region

    def style(self, kind: str = "linear") -> LinearRegression:
        return style_of(self, kind)


@dataclass(frozen=True)
class Patient:
    """One case as training draws it.

    peaks: the highest region of every slice, by plane.
    change: what is added to the target, as a code of a style; None leaves it as it is.
    styles: codes of the target's own style and of the one to be expected, where style is to be told.
    measured: see `familiar.measure`.
    """

    name: str
    slices: Slices
    peaks: dict[Plane, Integer[np.ndarray, " n"]]
    change: Code | None = None
    styles: tuple[Code, Code] | None = None
    measured: dict[str, Measurements] = field(default_factory=dict)

    @staticmethod
    def of(name: str, slices: Slices, measured: dict[str, Measurements] | None = None) -> "Patient":
        """The patient of some slices, its target untouched."""
        return Patient(name, slices, {plane: slices.peak(plane) for plane in slices.planes}, measured=measured or {})

    def slices_with(self, least: int, plane: Plane = "axial") -> Integer[np.ndarray, " m"]:
        """Slices of a plane in which some voxel's region is at least `least`."""
        return np.flatnonzero(self.peaks[plane] >= least)

    def slab(self, at: int, depth: int, plane: Plane = "axial") -> Slab:
        """A slice of a plane between its neighbours, which are zero beyond the first and the last; float32."""
        first, last = max(at - depth // 2, 0), min(at + depth // 2 + 1, len(self.peaks[plane]))
        read, before = self.slices.read(first, last, at, plane), first - (at - depth // 2)
        sources = np.zeros((len(read.sources), depth, *read.region.shape), np.float32)
        sources[:, before : before + last - first] = read.sources
        target = read.target.astype(np.float32)
        if self.change is not None:
            target += regression.told(sources[:, depth // 2], self.change, read.region > 0)
        return Slab(sources, target, read.region)


@dataclass(frozen=True)
class Styles:
    """What the styles of some patients' targets tell of other cases: the average, and which go with which sources."""

    average: Code
    nearest: StyleRetriever | None = None


@dataclass(frozen=True)
class Cohort:
    """Patients to train on, simulated ones to mix in, and patients held out for validation.

    styles: of those to train on, where style is to be told.
    """

    training: Sequence[Patient]
    phantoms: Sequence[Patient] = ()
    held_out: Sequence[Patient] = ()
    styles: Styles | None = None


@dataclass(frozen=True)
class Boxed:
    """A case as training keeps it: prepared, in the brain's box, slices first, float16.

    region: as in `Slices`; measured: of the sources, see `familiar.measure`.
    """

    images: dict[str, Float[np.ndarray, "z x y"]]
    region: Integer[np.ndarray, "z x y"]
    scales: dict[str, Scale]
    spacing: tuple[float, float, float]
    warnings: tuple[str, ...]
    measured: dict[str, Measurements] = field(default_factory=dict)


def boxed(case: Case, contrasts: Sequence[str], target: str, start: str) -> Boxed:
    """Read and prepare one case; the brain is that of `start`. What of it the target does not cover counts as outside.

    Raises what reading and preparing raise.
    """
    volumes = cases.load(case, (*contrasts, target, *(("seg",) if "seg" in case.named else ())))
    seg = volumes.pop("seg", None)
    prepared = normalize.apply(volumes, start)
    region = prepared.brain.astype(np.uint8)
    if seg is not None:
        labels = to_canonical(seg).array[prepared.box]
        region[tumour(labels, prepared.brain, case.name)] = LESION
        region[(labels == enhancing_label(labels)) & prepared.brain] = ENHANCING
    acquired = to_canonical(volumes[target]).array
    region[normalize.gap(acquired, prepared.whole(prepared.brain))[prepared.box]] = 0
    images = {
        name: np.ascontiguousarray(image.transpose(2, 0, 1), np.float16) for name, image in prepared.images.items()
    }
    kept = np.ascontiguousarray(region.transpose(2, 0, 1))
    found = ood.measure(replace(prepared, images={name: prepared.images[name] for name in contrasts}))
    measured = {group: found[group] for group in ood.QUESTIONS}
    return Boxed(images, kept, prepared.scales, prepared.spacing, prepared.warnings, measured)


def load(case: Case, contrasts: Sequence[str], target: str, start: str = "t1") -> Patient:
    """One training case, in memory. Raises what reading and preparing raise."""
    read = boxed(case, contrasts, target, start)
    images = np.stack([read.images[name] for name in (*contrasts, target)])
    return Patient.of(case.name, InMemory(images, read.region), read.measured)


def style_of(slices: Slices, kind: str = "linear") -> LinearRegression:
    """The own style of a case's target, from all of its slices."""
    (*sources, target), region = slices.whole()
    return regression.own_style(sources, target.astype(np.float32), region == 1, kind)


def average_style(patients: Sequence[Patient]) -> LinearRegression:
    """The average style of these patients' targets (see `data.style`)."""
    return LinearRegression.merged(patient.slices.style() for patient in patients)


def in_style(patients: Sequence[Patient], wanted: LinearRegression) -> list[Patient]:
    """The patients with their targets in one style: what no input can tell is taken out of what is asked for."""
    code = wanted.weights
    return [replace(patient, change=code - patient.slices.style().weights) for patient in patients]


def with_styles(patients: Sequence[Patient], kind: str) -> tuple[list[Patient], Styles]:
    """The patients with the codes of their targets' own styles and of those that the other patients, not other visits,
    let one expect: of curves the nearest patients', else the average. Raises `ValueError` where there are none.
    """
    own = [patient.slices.style(kind) for patient in patients]
    average = LinearRegression.merged(own).weights
    visits: dict[str, list[int]] = {}
    for i, patient in enumerate(patients):
        visits.setdefault(patient_of(patient.name), []).append(i)
    several = kind == "curves" and len(visits) > 1
    known = nearest.learn([patient.measured for patient in patients], own) if several else None
    told = [
        replace(p, styles=(one.weights, known.code(p.measured, visits[patient_of(p.name)]) if known else average))
        for p, one in zip(patients, own, strict=True)
    ]
    return told, Styles(average, known)


def with_expected(patients: Sequence[Patient], styles: Styles) -> list[Patient]:
    """Patients whose own styles are not to be known, with the codes of those to be expected."""
    if styles.nearest is None:
        return list(patients)
    codes = [styles.nearest.code(patient.measured) for patient in patients]
    return [replace(patient, styles=(code, code)) for patient, code in zip(patients, codes, strict=True)]
