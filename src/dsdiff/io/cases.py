"""Find the cases of a folder by file names (BraTS, BIDS) and read their volumes."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import chain
from pathlib import Path

from dsdiff.errors import CaseError, GeometryError, InputError
from dsdiff.io.file_format import check_presence
from dsdiff.io.file_names import parse_file_name
from dsdiff.io.nifti import read_nifti
from dsdiff.io.segmentation import relabel_cavity, round_labels
from dsdiff.orientation import to_canonical
from dsdiff.system.unicode_names import to_case_name
from dsdiff.volume import Volume, same_grid

CaseKey = tuple[str, str]  # folder ("" for BIDS, which spreads a visit over folders), case name
CaseFiles = Mapping[str, list[Path]]  # contrast -> files


@dataclass(frozen=True)
class Case:
    """One visit of a patient, as files.

    Attributes:
        name: Case name, valid Unicode (see `system.unicode_names`).
        files: Contrast (t1, t1ce, t2, flair, seg) -> file.
        duplicates: Contrast -> files, for contrasts with more than one file.
    """

    name: str
    files: Mapping[str, Path]
    duplicates: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", to_case_name(self.name))

    @property
    def contrasts(self) -> set[str]:
        """Contrasts with at least one file.

        Returns:
            Names of the contrasts. `load_volumes` raises for those with duplicates.
        """
        return {*self.files, *self.duplicates}


def discover_cases(folder: Path) -> list[Case]:
    """Find every case in a folder, at any depth.

    Args:
        folder: A case folder, or a folder of cases.

    Returns:
        Cases, sorted by name.

    Raises:
        InputError: The folder is missing, has no file with a known name, or has one name for two patients.
    """
    folder = Path(folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file; give its folder, or name the files with --t1 --t2 --flair")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a case folder or a folder of cases")

    files_by_case: dict[CaseKey, dict[str, list[Path]]] = {}
    for path in list_files(folder):
        if case_and_contrast := parse_file_name(path):
            name, contrast = case_and_contrast
            parent = "" if name.startswith("sub-") else str(path.parent)
            files_by_case.setdefault((parent, name), {}).setdefault(contrast, []).append(path)

    if not files_by_case:
        raise InputError(_describe_missing(folder))
    _check_unique_names(folder, files_by_case)

    cases = [_build_case(name, case_files) for (_, name), case_files in files_by_case.items()]
    return sorted(cases, key=lambda case: case.name)


def _describe_missing(folder: Path) -> str:
    has_dicom = any(path.suffix.lower() in (".dcm", ".ima") for path in list_files(folder))
    hint = "; it holds DICOM, which must be converted to NIfTI first, e.g. with dcm2niix" if has_dicom else ""

    return (
        f"no recognized file in {folder}; expected names that end in _t1 _t2 _flair (BraTS), -t1n -t2w -t2f "
        f"(BraTS 2023) or _T1w _T2w _FLAIR (BIDS), as .nii or .nii.gz{hint}"
    )


def _check_unique_names(folder: Path, files_by_case: Mapping[CaseKey, CaseFiles]) -> None:
    """Raise `InputError` if two folders hold cases of one name."""
    parents_by_name: dict[str, list[str]] = {}
    for parent, name in files_by_case:
        parents_by_name.setdefault(name, []).append(parent)

    for name, parents in sorted(parents_by_name.items()):
        if len(parents) == 1:
            continue
        places = " and ".join(sorted(parent or str(folder) for parent in parents)[:2])
        contrasts = list(chain.from_iterable(files_by_case[parent, name] for parent in parents))
        if len(set(contrasts)) == len(contrasts):
            raise InputError(
                f"{folder} has a folder per contrast: files of {name} are in {places}; put the contrasts of each "
                "patient into one folder, or name the files of one patient with --t1 --t2 --flair"
            )
        raise InputError(f"{folder} has more than one case named {name}, in {places}; give the folder of one of them")


def discover_single_case(folder: Path, purpose: str) -> Case:
    """Find the only case in a folder.

    Args:
        folder: A case folder.
        purpose: What needs the case, for the message.

    Returns:
        The case.

    Raises:
        InputError: The folder has several cases, or `discover_cases` raises.
    """
    cases = discover_cases(folder)
    if len(cases) != 1:
        raise InputError(
            f"{folder} holds {len(cases)} cases; {purpose} needs exactly one: give the folder of that case"
        )

    return cases[0]


def discover_named_cases(folder: Path, names: Sequence[str]) -> list[Case]:
    """Find the cases with these names in a folder.

    Args:
        folder: A folder of cases.
        names: Case names.

    Returns:
        Cases in the order of `names`.

    Raises:
        InputError: A case is missing, or `discover_cases` raises.
    """
    cases = {case.name: case for case in discover_cases(folder)}
    if missing_names := [name for name in names if name not in cases]:
        raise InputError(
            f"{folder} lacks {len(missing_names)} of the {len(names)} patients needed: {', '.join(missing_names[:3])}"
        )

    return [cases[name] for name in names]


def bundled_phantom() -> Case:
    """Find the simulated patient that is installed with dsdiff.

    Returns:
        Its case.
    """
    (phantom,) = discover_cases(Path(str(files("dsdiff").joinpath("assets", "phantom"))))
    return phantom


def file_hash(path: Path) -> str:
    """Hash the content of a file.

    Args:
        path: The file.

    Returns:
        SHA-256, in hex.

    Raises:
        InputError: The file is absent, is a link without content, or cannot be read.
    """
    check_presence(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error


def list_files(folder: Path) -> list[Path]:
    """List the files of a folder, at any depth.

    Args:
        folder: Hidden folders inside it are skipped; links to folders are followed once.

    Returns:
        Files, sorted by path.

    Raises:
        InputError: A folder cannot be read. Skipping it would silently miss its patients.
    """
    paths: list[Path] = []
    visited_folders = set()
    for root, folder_names, file_names in os.walk(folder, followlinks=True, onerror=_raise_unreadable):
        real_path = os.path.realpath(root)
        if real_path in visited_folders:
            folder_names.clear()
            continue
        visited_folders.add(real_path)
        folder_names[:] = [name for name in folder_names if not name.startswith(".")]
        paths += [Path(root, name) for name in file_names]

    return sorted(paths)


def _raise_unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}); make it readable, or move it") from error


def _build_case(name: str, case_files: CaseFiles) -> Case:
    single = {contrast: paths[0] for contrast, paths in case_files.items() if len(paths) == 1}
    duplicates = {contrast: tuple(paths) for contrast, paths in case_files.items() if len(paths) > 1}

    return Case(name, single, duplicates)


def load_volumes(case: Case, contrasts: tuple[str, ...]) -> dict[str, Volume]:
    """Read contrasts of a case.

    Args:
        case: The case.
        contrasts: Names of the contrasts to read; "seg" is converted to integer labels.

    Returns:
        Volumes by contrast, on one grid up to the order and direction of their axes.

    Raises:
        CaseError: A contrast is absent or has several files.
        GeometryError: The grids differ.
        InputError: A file cannot be used.
    """
    for contrast in contrasts:
        if contrast in case.duplicates:
            paths = " and ".join(str(path) for path in case.duplicates[contrast])
            raise CaseError(f"case {case.name} has more than one {contrast}: {paths}")
        if contrast not in case.files:
            present_contrasts = ", ".join(sorted(case.files)) or "nothing"
            raise CaseError(
                f"case {case.name} has no {contrast} (found: {present_contrasts}; needed: {', '.join(contrasts)})"
            )

    paths_to_read = [case.files[contrast] for contrast in contrasts]
    with ThreadPoolExecutor(len(contrasts)) as executor:  # most of the time goes into gzip, which releases the GIL
        volumes = dict(zip(contrasts, executor.map(read_nifti, paths_to_read), strict=True))

    if "seg" in volumes:
        labels = round_labels(volumes["seg"].array, case.files["seg"])
        volumes["seg"] = volumes["seg"].with_array(relabel_cavity(labels, case.name))
    check_grids(volumes, case.name)

    return volumes


def check_grids(volumes: Mapping[str, Volume], case_name: str) -> None:
    """Check that volumes share one grid, up to the order and direction of their axes.

    Args:
        volumes: Volumes by contrast; each is compared with the first.
        case_name: For the message.

    Raises:
        GeometryError: A volume has another grid than the first.
    """
    reference_name, reference = next(iter(volumes.items()))
    for contrast, volume in volumes.items():
        if same_grid(to_canonical(reference), to_canonical(volume)):
            continue
        if volume.shape != reference.shape:
            mismatch = f"{contrast} is {volume.shape}, {reference_name} is {reference.shape}"
        else:
            mismatch = f"{contrast} and {reference_name} differ in position (affines differ)"
        raise GeometryError(f"{mismatch} in case {case_name}; co-register and resample them to one grid first")
