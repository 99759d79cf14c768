"""A prepared cohort on disk: a manifest, a list of cases, and one HDF5 file for each case.

A file holds every contrast and the region in the brain's box, one compressed and checksummed chunk for each slice, so
that a slice is read without the rest; once for each plane that slices are to be read along. It is opened for each slab
and closed again: nothing that a fork or a thread could share, and no memory that grows with the cohort. A case is in
the store when its line stands in the list, which is written after the case's file was renamed into its place.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Integer

from dsdiff.data import dataset
from dsdiff.data.dataset import Boxed, Patient, Slab
from dsdiff.errors import CaseError, ConfigError, InputError
from dsdiff.io import cases
from dsdiff.preprocessing import planes
from dsdiff.preprocessing.planes import Plane
from dsdiff.qc import ood
from dsdiff.style.regression import KNOTS, LinearRegression
from dsdiff.system.atomic import whole_file

MANIFEST, LIST, FOLDER, REGION = "store.json", "cases.jsonl", "cases", "region"
WHAT, FORMAT = "dsdiff store", 3


@dataclass(frozen=True)
class Settings:
    """How a store was prepared: its source contrasts, the one whose brain is taken, the target, and the planes that
    slices can be read along.
    """

    contrasts: tuple[str, ...] = ("t1", "t2", "flair")
    start: str = "t1"
    target: str = "t1ce"
    planes: tuple[Plane, ...] = ("axial",)


@dataclass(frozen=True)
class Entry:
    """A case of the list.

    peaks: highest region of every slice, a digit each, by plane. absent: source contrasts that the case lacks.
    scales: centre and width of every contrast: z = (intensity - centre) / width. spacing: mm along x, y, z.
    inputs: SHA-256 of every file that was read; sha256, size: of the case's file in the store.
    styles: the target's own, by kind (see `data.style`), from all source contrasts; none where one is absent.
    measured: see `familiar.measure`.
    """

    name: str
    peaks: dict[Plane, str]
    absent: tuple[str, ...]
    scales: dict[str, tuple[float, float]]
    spacing: tuple[float, float, float]
    warnings: tuple[str, ...]
    inputs: dict[str, str]
    sha256: str
    size: int
    styles: dict[str, dict[str, list]]
    measured: dict[str, dict[str, float]]

    @property
    def line(self) -> str:
        """The entry as it stands in the list."""
        return json.dumps(asdict(self)) + "\n"


@dataclass(frozen=True)
class Stored:
    """Slices of one case in its file; see `cohort.Slices`."""

    path: Path
    contrasts: tuple[str, ...]
    target: str
    peaks: Mapping[Plane, str]
    kept_styles: Mapping[str, dict[str, list]]

    @property
    def planes(self) -> tuple[Plane, ...]:
        return tuple(self.peaks)

    def peak(self, plane: Plane) -> Integer[np.ndarray, " n"]:
        return np.frombuffer(self.peaks[plane].encode(), np.uint8) - ord("0")

    def read(self, first: int, last: int, at: int, plane: Plane) -> Slab:
        taken = {name: slice(first, last) for name in self.contrasts} | {self.target: at, REGION: at}
        read = read_arrays(self.path, taken, plane)
        return Slab(np.stack([read[name] for name in self.contrasts]), read[self.target], read[REGION])

    def whole(self) -> tuple[Float[np.ndarray, "c z x y"], Integer[np.ndarray, "z x y"]]:
        names = (*self.contrasts, self.target)
        plane = self.planes[0]
        read = read_arrays(self.path, dict.fromkeys((*names, REGION), slice(None)), plane)
        images = np.stack([planes.sliced(read[name], plane) for name in names])
        return images, planes.sliced(read[REGION], plane)

    def style(self, kind: str = "linear") -> LinearRegression:
        if kind not in self.kept_styles:
            return dataset.style_of(self, kind)
        kept = {name: np.array(numbers) for name, numbers in self.kept_styles[kind].items()}
        return LinearRegression.of(kept["gram"], kept["moment"], KNOTS[kind])


@dataclass(frozen=True)
class Store:
    """An opened store: what is in it, and how it was made; its slices are read when they are asked for."""

    root: Path
    settings: Settings
    versions: dict[str, str]
    entries: dict[str, Entry]

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the settings and of what the cases were made from."""
        inputs = [(name, self.entries[name].inputs) for name in sorted(self.entries)]
        return hashlib.sha256(json.dumps([asdict(self.settings), inputs], sort_keys=True).encode()).hexdigest()[:12]

    def patients(
        self, contrasts: Sequence[str], target: str, start: str, wanted: Sequence[Plane] = ("axial",)
    ) -> list[Patient]:
        """The patients, with some or all of the store's contrasts, to be read along the planes that are wanted.

        Raises `ConfigError` where the store was prepared for something else, and `CaseError` for a case that lacks a
        contrast.
        """
        lost = [name for name in contrasts if name not in self.settings.contrasts]
        if lost or (target, start) != (self.settings.target, self.settings.start):
            has = f"{', '.join(self.settings.contrasts)} to {self.settings.target}, brain of {self.settings.start}"
            needed = f"{', '.join(contrasts)} to {target}, brain of {start}"
            raise ConfigError(f"{self.root} was prepared for {has}; needed: {needed}. Prepare another store")
        if set(wanted) - set(self.settings.planes):
            raise ConfigError(
                f"{self.root} was prepared for {', '.join(self.settings.planes)} slices; data.planes is "
                f"{', '.join(wanted)}. Prepare another store with --planes {','.join(wanted)}"
            )
        found, others = [], [name for name in self.settings.contrasts if name not in contrasts]
        for entry in self.entries.values():
            if absent := [name for name in contrasts if name in entry.absent]:
                raise CaseError(f"case {entry.name} of {self.root} has no {absent[0]}; leave it out of data.contrasts")
            styles = entry.styles if tuple(contrasts) == self.settings.contrasts else {}
            slices = Stored(case_file(self.root, entry.name), tuple(contrasts), target, entry.peaks, styles)
            found.append(Patient.of(entry.name, slices, ood.without(entry.measured, others)))
        return found


def is_store(root: Path) -> bool:
    """Whether a folder is a store rather than a folder of cases."""
    return (root / MANIFEST).is_file()


def names(root: Path) -> list[str]:
    """The cases of a store or of a folder of cases. Raises what opening or discovering raises."""
    return list(open_store(root).entries) if is_store(root) else [case.name for case in cases.discover(root)]


def case_file(root: Path, name: str) -> Path:
    """Where a case lies in a store."""
    return root / FOLDER / f"{name}.h5"


def open_store(root: Path) -> Store:
    """Open a store: its lists are read, and its files are looked for.

    Raises `InputError` where it holds no case, or a part of it is absent or damaged.
    """
    settings, versions = read_manifest(root)
    entries, torn = read_list(root)
    again = f"the command that prepared it, dsdiff prepare CASES {root}, makes it anew"
    if torn:
        raise InputError(f"{root / LIST} is damaged: line {torn} is no case; {again}")
    if not entries:
        raise InputError(f"{root} holds no case yet; dsdiff prepare CASES {root} puts them there")
    for entry in entries.values():
        file = case_file(root, entry.name)
        size = file.stat().st_size if file.is_file() else None
        if size != entry.size:
            found = "is not there" if size is None else f"has {size} bytes, not {entry.size}"
            raise InputError(f"{file} {found}; {again}")
    return Store(root, settings, versions, entries)


def read_manifest(root: Path) -> tuple[Settings, dict[str, str]]:
    """How a store was prepared, and by which versions. Raises `InputError` where that is not told."""
    try:
        told = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        if (told["what"], told["format"]) != (WHAT, FORMAT):
            raise ValueError(f"it is {told['what']}, format {told['format']}")
        kept = told["settings"]
        settings = Settings(tuple(kept["contrasts"]), kept["start"], kept["target"], tuple(kept["planes"]))
        return settings, told["versions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{root / MANIFEST} is not the manifest of a store, format {FORMAT} ({error}); dsdiff prepare makes another"
        ) from error


def read_list(root: Path) -> tuple[dict[str, Entry], int]:
    """The finished cases by name, the last line of each; and the number of the first line that is none, or 0.

    A last line without its end is one that was being written when something stopped: no case yet.
    """
    entries, torn = {}, 0
    text = (root / LIST).read_text(encoding="utf-8", errors="replace") if (root / LIST).is_file() else ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            entry = _entry(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            torn = torn or (number if line.endswith("\n") else 0)
            continue
        if line.endswith("\n"):
            entries[entry.name] = entry
    return entries, torn


def _entry(told: dict[str, Any]) -> Entry:
    tuples = ("absent", "spacing", "warnings")
    scales = {name: (float(centre), float(width)) for name, (centre, width) in told["scales"].items()}
    return Entry(**told | {name: tuple(told[name]) for name in tuples} | {"scales": scales})


def write_case(case: Boxed, file: Path, wanted: Sequence[Plane] = ("axial",)) -> None:
    """Write a case's file, for slices of the planes that are wanted, whole or not at all. Raises `OutputError`."""
    arrays = case.images | {REGION: case.region}
    with whole_file(file) as beside, h5py.File(beside, "w") as opened:
        for plane, (name, kept) in product(wanted, arrays.items()):
            array = planes.sliced(kept, plane)
            made = opened.create_dataset(
                f"{plane}/{name}", data=array, chunks=(1, *array.shape[1:]), compression="gzip", compression_opts=1,
                shuffle=True, fletcher32=True,
            )  # fmt: skip
            if name in case.scales:
                made.attrs.update(asdict(case.scales[name]))


def read_arrays(file: Path, taken: Mapping[str, slice | int], plane: Plane = "axial") -> dict[str, np.ndarray]:
    """Some slices of a plane, of some arrays of a case's file. Raises `InputError` where it is damaged."""
    try:
        with h5py.File(file, "r") as opened:
            return {name: opened[f"{plane}/{name}"][index] for name, index in taken.items()}
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{file} is damaged ({error}); the command that prepared it, dsdiff prepare, makes it anew"
        ) from error
