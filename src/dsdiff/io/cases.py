"""Find patients in folders by the names that the field gives its files."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from dsdiff.errors import CaseError, GeometryError, InputError
from dsdiff.io import nifti, segmentation
from dsdiff.volume import Volume, same_grid, to_canonical

# The last word of a file's name -> the contrast. BraTS to 2021, BraTS from 2023, BIDS, and what hospitals write.
NAMES = {
    "t1": "t1", "t1n": "t1", "t1w": "t1", "t1pre": "t1",
    "t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce", "t1post": "t1ce", "t1wce": "t1ce",
    "t2": "t2", "t2w": "t2",
    "flair": "flair", "t2f": "flair", "t2flair": "flair",
    "seg": "seg", "dseg": "seg",
    "enh": "enh",
}  # fmt: skip
LABELS = ("seg", "enh")  # what is drawn on a contrast
NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
BIDS = re.compile(
    r"^(?P<case>sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?)(?P<entities>(?:_[A-Za-z]+-[A-Za-z0-9]+)*)_[A-Za-z0-9]+$"
)
FLAIR = re.compile(r"(?<![a-z0-9])t2[_\-]?flair$", re.IGNORECASE)  # one contrast, not a T2
OURS = re.compile(r"_desc-(synth|std)T1ce_T1w$")  # a skull-stripper's desc-synthstrip is not
VISIT = re.compile(r"^(?P<patient>sub-[A-Za-z0-9]+|BraTS-[A-Za-z]+-\d+)(?:_ses-[A-Za-z0-9]+|-\d{3})$")
LAST_WORD = re.compile(r"^(?:(?P<case>.*)[_\-. ])?(?P<word>[A-Za-z0-9]+)$")


@dataclass(frozen=True)
class Case:
    """One patient visit: where its contrasts lie."""

    name: str
    files: Mapping[str, Path]  # t1, t1ce, t2, flair, seg -> file
    doubles: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)  # contrasts found more than once

    @property
    def named(self) -> set[str]:
        """Every contrast of which there is a file: `load` reads it, or says that it is there twice."""
        return {*self.files, *self.doubles}


def contrast_of(path: Path) -> tuple[str, str] | None:
    """(case, contrast) that a file's name tells, or None if it tells none; what dsdiff itself wrote counts as none."""
    stem = FLAIR.sub("flair", NIFTI.sub("", path.name))
    if not NIFTI.search(path.name) or stem.startswith(".") or OURS.search(stem):
        return None
    word = LAST_WORD.match(stem)
    contrast = NAMES.get(word["word"].lower()) if word else None
    if word is None or contrast is None:
        return None
    if bids := BIDS.match(stem):
        injected = contrast == "t1" and "_ce-" in bids["entities"]
        return bids["case"], "t1ce" if injected else contrast
    drawn_on = LAST_WORD.match(word["case"] or "") if contrast in LABELS else None  # as of p1_t1_seg
    if drawn_on and drawn_on["word"].lower() in NAMES:
        word = drawn_on
    return word["case"] or path.parent.resolve().name, contrast


def patient_of(name: str) -> str:
    """The patient whose visit a case is, as its name tells by BIDS (sub-01_ses-2) or BraTS (BraTS-GLI-00027-001); else
    every case is a patient."""
    visit = VISIT.match(name)
    return visit["patient"] if visit else name


def discover(folder: Path) -> list[Case]:
    """Every case in a folder, at any depth, sorted by name.

    Raises `InputError` where there is no such folder, nothing by a known name, or one name for two patients.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; give its folder, or name the files by --t1 --t2 --flair")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (a case folder or a folder of cases is needed)")
    found: dict[tuple[str, str], dict[str, list[Path]]] = {}
    for path in files_below(folder):
        if named := contrast_of(path):
            case, contrast = named
            place = "" if case.startswith("sub-") else str(path.parent)  # BIDS spreads a visit over folders
            found.setdefault((place, case), {}).setdefault(contrast, []).append(path)
    if not found:
        dicom = any(path.suffix.lower() in (".dcm", ".ima") for path in files_below(folder))
        raise InputError(
            f"{folder} holds no file by a name known here; needed are names that end in "
            "_t1 _t2 _flair (BraTS), -t1n -t2w -t2f (BraTS 2023) or _T1w _T2w _FLAIR (BIDS), as .nii or .nii.gz"
            + ("; it holds DICOM, which has to be turned into NIfTI first, as by dcm2niix" if dicom else "")
        )
    _refuse_twice(folder, found)
    cases = [_case(name, files) for (_, name), files in found.items()]
    return sorted(cases, key=lambda case: case.name)


def _refuse_twice(folder: Path, found: Mapping[tuple[str, str], Mapping[str, list[Path]]]) -> None:
    places: dict[str, list[str]] = {}
    for place, name in found:
        places.setdefault(name, []).append(place or str(folder))
    for name in sorted(name for name in places if len(places[name]) > 1):
        where, held = sorted(places[name]), [*(c for place in places[name] for c in found.get((place, name), {}))]
        if len(set(held)) == len(held):
            raise InputError(
                f"{folder} holds the contrasts of {name} in folders of their own, as {' and '.join(where[:2])}; put "
                "those of each patient into one folder, or name the files of one by --t1 --t2 --flair"
            )
        raise InputError(
            f"{folder} holds more than one case by the name {name}, in {' and '.join(where[:2])}; give one of them"
        )


def only(folder: Path, what: str) -> Case:
    """The one case in a folder, for what needs one. Raises `InputError` for several, and what `discover` raises."""
    if len(found := discover(folder)) != 1:
        raise InputError(f"{folder} holds {len(found)} cases; {what} is one: give its own folder")
    return found[0]


def named(folder: Path, names: Sequence[str]) -> list[Case]:
    """The cases of a folder by these names. Raises `InputError` where it lacks some, and what `discover` raises."""
    found = {case.name: case for case in discover(folder)}
    if lost := [name for name in names if name not in found]:
        raise InputError(f"{folder} lacks {len(lost)} of the {len(names)} patients asked for: {', '.join(lost[:3])}")
    return [found[name] for name in names]


def bundled() -> Case:
    """The simulated patient that comes with dsdiff."""
    (phantom,) = discover(Path(str(files("dsdiff").joinpath("assets", "phantom"))))
    return phantom


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises `InputError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder by name, hidden folders left out, links to folders followed once.

    Raises `InputError` where a folder cannot be read: its patients would be missed without a word.
    """
    found, visited = [], set()
    for place, below, there in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(place)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(place, name) for name in there]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}); make it readable, or move it") from error


def _case(name: str, files: Mapping[str, list[Path]]) -> Case:
    single = {contrast: paths[0] for contrast, paths in files.items() if len(paths) == 1}
    return Case(name, single, {contrast: tuple(paths) for contrast, paths in files.items() if len(paths) > 1})


def load(case: Case, contrasts: tuple[str, ...]) -> dict[str, Volume]:
    """Read the named contrasts of a case, all on one grid up to the order and direction of their axes.

    Raises `CaseError` for an absent or doubled contrast, `GeometryError` for different grids, `InputError` for a file
    that cannot be used.
    """
    for contrast in contrasts:
        if contrast in case.doubles:
            listed = " and ".join(str(path) for path in case.doubles[contrast])
            raise CaseError(f"case {case.name} has more than one {contrast}: {listed}")
        if contrast not in case.files:
            has = ", ".join(sorted(case.files)) or "nothing"
            raise CaseError(f"case {case.name} has no {contrast} (found: {has}; needed: {', '.join(contrasts)})")
    with ThreadPoolExecutor(len(contrasts)) as files:  # unpacking takes most of it, and leaves the other cores free
        read = files.map(nifti.read, [case.files[contrast] for contrast in contrasts])
        volumes = dict(zip(contrasts, read, strict=True))
    if "seg" in volumes:
        whole = segmentation.whole_numbers(volumes["seg"].array, case.files["seg"])
        volumes["seg"] = volumes["seg"].with_array(segmentation.without_cavity(whole, case.name))
    check_grids(volumes, case.name)
    return volumes


def check_grids(volumes: Mapping[str, Volume], case: str) -> None:
    """Raise `GeometryError` unless all volumes have the first one's grid, up to the order and direction of axes."""
    (first, reference), *others = volumes.items()
    for contrast, volume in others:
        if not same_grid(to_canonical(reference), to_canonical(volume)):
            what = (
                f"{contrast} is {volume.shape}, {first} is {reference.shape}"
                if volume.shape != reference.shape
                else f"{contrast} and {first} lie at different places (affines differ)"
            )
            raise GeometryError(f"{what} in case {case}; register and resample them to one grid first")
