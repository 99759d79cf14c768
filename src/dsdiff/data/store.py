"""A store: a cohort that was prepared once, as a manifest, a list of records, and one HDF5 file for each case.

A case is in the store when the list has its record. The record is appended after the case's file took its place, so
that a store is valid however its preparation ended. The record also has the file's checksum and those of its inputs.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsdiff.data.dataset import TrainingPatient
from dsdiff.data.hdf5_slices import HDF5Slices
from dsdiff.errors import CaseError, ConfigError, InputError
from dsdiff.io.cases import discover_cases
from dsdiff.preprocessing.planes import Plane
from dsdiff.qc.features import drop_contrasts
from dsdiff.style.regression import StyleKind
from dsdiff.system.unicode_names import to_file_name
from dsdiff.volume import VoxelSpacing

MANIFEST_NAME = "store.json"
RECORDS_NAME = "cases.jsonl"
CASES_FOLDER = "cases"
FILE_KIND = "dsdiff store"
FORMAT_VERSION = 4


@dataclass(frozen=True)
class StoreSettings:
    """How the cases of a store are prepared.

    Attributes:
        contrasts: Source contrasts.
        source_contrast: The source contrast whose foreground is the brain.
        target: The target contrast.
        planes: Planes that slices can be read along.
    """

    contrasts: tuple[str, ...] = ("t1", "t2", "flair")
    source_contrast: str = "t1"
    target: str = "t1ce"
    planes: tuple[Plane, ...] = ("axial",)


@dataclass(frozen=True)
class StoreRecord:
    """What the list says of a case.

    Attributes:
        name: Name of the case.
        max_region_digits: By plane, the highest value of the region map in each slice, one digit a slice.
        absent: Source contrasts that the case lacks.
        scales: By contrast, center and width of z = (intensity - center) / width.
        spacing: Voxel size in mm along x, y, z.
        warnings: Warnings of the preprocessing.
        input_hashes: By contrast, the SHA-256 of the file that was read.
        sha256: SHA-256 of the case's file in the store.
        size: Bytes of the case's file in the store.
        style_equations: By kind, "gram" and "moment" of the regression of the target on all source contrasts (see
            `style.regression`). Empty if a source contrast is absent.
        features: By group, features of the sources; see `qc.features.measure_features`.
    """

    name: str
    max_region_digits: dict[Plane, str]
    absent: tuple[str, ...]
    scales: dict[str, tuple[float, float]]
    spacing: VoxelSpacing
    warnings: tuple[str, ...]
    input_hashes: dict[str, str]
    sha256: str
    size: int
    style_equations: dict[StyleKind, dict[str, list]]
    features: dict[str, dict[str, float]]

    def to_json_line(self) -> str:
        """Format the record for the list.

        Returns:
            One line of JSON with its end of line.
        """
        return json.dumps(asdict(self)) + "\n"


@dataclass(frozen=True)
class Store:
    """An opened store. Slices are read from its files when they are needed.

    Attributes:
        root: Folder of the store.
        settings: How its cases were prepared.
        versions: Versions of the packages that prepared them.
        records: By name, the record of each case.
    """

    root: Path
    settings: StoreSettings
    versions: dict[str, str]
    records: dict[str, StoreRecord]

    @property
    def hash(self) -> str:
        """A hash of the settings and of the input files.

        Returns:
            The first 12 hex digits of a SHA-256.
        """
        inputs = [(name, self.records[name].input_hashes) for name in sorted(self.records)]
        text = json.dumps([asdict(self.settings), inputs], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def load_patients(
        self, contrasts: Sequence[str], target: str, source_contrast: str, planes: Sequence[Plane] = ("axial",)
    ) -> list[TrainingPatient]:
        """Return the patients of the store for a training.

        Args:
            contrasts: Source contrasts, some or all of those in the store.
            target: The target contrast.
            source_contrast: The contrast whose foreground is the brain.
            planes: Planes that slices will be read along.

        Returns:
            One patient for each record.

        Raises:
            ConfigError: The store was prepared with other settings.
            CaseError: A case lacks a contrast.
        """
        self._check_settings(contrasts, target, source_contrast, planes)
        unused = [name for name in self.settings.contrasts if name not in contrasts]

        patients = []
        for record in self.records.values():
            if absent := [name for name in contrasts if name in record.absent]:
                raise CaseError(
                    f"case {record.name} of {self.root} has no {absent[0]}; remove {absent[0]} from data.contrasts"
                )
            slices = HDF5Slices(
                case_path(self.root, record.name),
                tuple(contrasts),
                target,
                record.max_region_digits,
                record.style_equations if tuple(contrasts) == self.settings.contrasts else {},
            )
            features = drop_contrasts(record.features, unused)
            patients.append(TrainingPatient.from_slices(record.name, slices, features))
        return patients

    def _check_settings(
        self, contrasts: Sequence[str], target: str, source_contrast: str, planes: Sequence[Plane]
    ) -> None:
        """Raise `ConfigError` unless the store has these contrasts and planes."""
        settings = self.settings
        missing = [name for name in contrasts if name not in settings.contrasts]
        if missing or (target, source_contrast) != (settings.target, settings.source_contrast):
            prepared = _describe_task(settings.contrasts, settings.target, settings.source_contrast)
            needed = _describe_task(contrasts, target, source_contrast)
            raise ConfigError(f"{self.root} was prepared for {prepared}; needed: {needed}. Prepare another store")
        if set(planes) - set(settings.planes):
            raise ConfigError(
                f"{self.root} was prepared for {', '.join(settings.planes)} slices; data.planes is "
                f"{', '.join(planes)}. Prepare another store with --planes {','.join(planes)}"
            )


def _describe_task(contrasts: Sequence[str], target: str, source_contrast: str) -> str:
    return f"{', '.join(contrasts)} to {target}, brain of {source_contrast}"


def is_store(root: Path) -> bool:
    """Tell whether a folder is a store rather than a folder of cases.

    Args:
        root: The folder.

    Returns:
        True if it holds a manifest.
    """
    return (root / MANIFEST_NAME).is_file()


def list_case_names(root: Path) -> list[str]:
    """List the cases of a store or of a folder of cases.

    Args:
        root: The folder.

    Returns:
        Names of cases.

    Raises:
        InputError: The folder holds no case, or the store is damaged.
    """
    if is_store(root):
        return list(open_store(root).records)
    return [case.name for case in discover_cases(root)]


def case_path(root: Path, name: str) -> Path:
    """Return the path of a case's file in a store.

    Args:
        root: Folder of the store.
        name: Name of the case.

    Returns:
        The path.
    """
    return root / CASES_FOLDER / to_file_name(f"{name}.h5")


def open_store(root: Path) -> Store:
    """Open a store: read its manifest and its list, and check that the cases' files have the right size.

    Args:
        root: Folder of the store.

    Returns:
        The store.

    Raises:
        InputError: The store holds no case, or a part of it is missing or damaged.
    """
    settings, versions = read_manifest(root)
    records, damaged_line = read_records(root)
    advice = f"run dsdiff prepare CASES {root} again, which makes it anew"
    if damaged_line:
        raise InputError(f"{root / RECORDS_NAME} is damaged: line {damaged_line} is no record of a case; {advice}")
    if not records:
        raise InputError(f"{root} holds no case yet; run dsdiff prepare CASES {root} to add cases")

    for record in records.values():
        path = case_path(root, record.name)
        if not path.is_file():
            raise InputError(f"{path} is missing; {advice}")
        size = path.stat().st_size
        if size != record.size:
            raise InputError(f"{path} has {size} bytes, expected {record.size}; {advice}")
    return Store(root, settings, versions, records)


def read_manifest(root: Path) -> tuple[StoreSettings, dict[str, str]]:
    """Read how a store was prepared.

    Args:
        root: Folder of the store.

    Returns:
        The settings, and the versions of the packages.

    Raises:
        InputError: There is no manifest, or it is damaged or of another format.
    """
    path = root / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if (manifest["what"], manifest["format"]) != (FILE_KIND, FORMAT_VERSION):
            raise ValueError(f"it is {manifest['what']}, format {manifest['format']}")
        fields = manifest["settings"]
        settings = StoreSettings(
            tuple(fields["contrasts"]), fields["source_contrast"], fields["target"], tuple(fields["planes"])
        )
        return settings, manifest["versions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not the manifest of a store of format {FORMAT_VERSION} ({error}); run dsdiff prepare to make "
            "another store"
        ) from error


def read_records(root: Path) -> tuple[dict[str, StoreRecord], int]:
    """Read the list of a store. A last line without an end was being written when a preparation stopped: it is skipped.

    Args:
        root: Folder of the store.

    Returns:
        By name, the last record of each case; and the number of the first damaged line, or 0.
    """
    path = root / RECORDS_NAME
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    records = {}
    damaged_line = 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        is_complete = line.endswith("\n")
        try:
            record = _parse_record(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            if is_complete and not damaged_line:
                damaged_line = number
            continue
        if is_complete:
            records[record.name] = record
    return records, damaged_line


def _parse_record(fields: dict[str, Any]) -> StoreRecord:
    scales = {name: (float(center), float(width)) for name, (center, width) in fields["scales"].items()}
    tuples = {name: tuple(fields[name]) for name in ("absent", "spacing", "warnings")}
    return StoreRecord(**fields | tuples | {"scales": scales})
