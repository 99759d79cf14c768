"""Build a store: prepare every case of a folder once, for all trainings that follow (see `data.store`)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np

from dsdiff import __version__
from dsdiff.data import store, store_case
from dsdiff.data.dataset import LESION
from dsdiff.data.settings import DataConfig
from dsdiff.data.store import StoreRecord, StoreSettings
from dsdiff.data.store_case import PreparationFailure
from dsdiff.errors import ConfigError, OutputError
from dsdiff.io import splits
from dsdiff.io.cases import Case, discover_cases
from dsdiff.model.metadata import PreprocessingRecord
from dsdiff.system.atomic import LOCK_NAME, atomic_write_text, exclusive_lock, wrap_os_error
from dsdiff.system.console import ProgressCallback, ignore_progress

SPLIT_NAME = "split.json"


@dataclass(frozen=True)
class BuildReport:
    """What `prepare_cases` did.

    Attributes:
        prepared: Cases that were prepared now.
        unchanged: Cases that the store had already.
        failed: By case, why it cannot be prepared.
        missing: Cases of the store that the folder no longer holds.
        replaced: Cases that were prepared again, as their files have changed.
        records: By name, the record of each case in the store.
    """

    prepared: tuple[str, ...]
    unchanged: tuple[str, ...]
    failed: dict[str, str]
    missing: tuple[str, ...]
    replaced: tuple[str, ...]
    records: dict[str, StoreRecord] = field(repr=False)

    def lines(self) -> Iterator[str]:
        """Describe the report.

        Yields:
            Lines of text.
        """
        records = self.records.values()
        digits = "".join("".join(record.max_region_digits.values()) for record in records)
        n_lesion_slices = sum(int(digit) >= LESION for digit in digits)
        megabytes = sum(record.size for record in records) / 1e6
        yield f"{len(records)} cases ({len(self.prepared)} prepared now, {len(self.unchanged)} unchanged)"
        yield f"{len(digits)} slices with brain, {n_lesion_slices} of them with tumour; {megabytes:.1f} MB"

        for contrast in sorted(set(chain.from_iterable(record.absent for record in records))):
            names = [record.name for record in records if contrast in record.absent]
            yield f"{contrast} is absent from {len(names)}: {_shorten(names)}"
        for record in records:
            for warning in record.warnings:
                yield f"warning: {record.name}: {warning}"
        if self.replaced:
            yield f"prepared again from changed files (are they the same patients?): {_shorten(self.replaced)}"
        if self.missing:
            yield f"in the store, but no longer in the folder: {_shorten(self.missing)} (--prune removes them)"
        for name, reason in self.failed.items():
            yield f"failed: {name}: {reason}"


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + " ..." * (len(names) > 5)


def prepare_cases(
    folder: Path,
    root: Path,
    settings: StoreSettings,
    workers: int,
    progress: ProgressCallback = ignore_progress,
    prune: bool = False,
) -> BuildReport:
    """Prepare every case of a folder that the store does not have yet, or whose files have changed.

    A case that cannot be prepared is named in the report and does not stop the others. If its files have changed, it
    also leaves the store.

    Args:
        folder: A folder of cases.
        root: Folder of the store; made if it does not exist.
        settings: How cases are prepared.
        workers: Number of processes.
        progress: Called after each case.
        prune: Remove cases from the store that the folder no longer holds.

    Returns:
        The report.

    Raises:
        ConfigError: The store was prepared with other settings.
        OutputError: The store cannot be written, or the folder at `root` is no store.
        InputError: The folder cannot be read, holds no case, or holds two cases of one name.
        DsdiffError: A worker process was killed.
    """
    cases = discover_cases(folder)
    check_settings(root, settings)
    with exclusive_lock(root):
        init_store(root, settings)
        report = _prepare_new_cases(cases, root, settings, workers, progress)
        return _remove_leftovers(report, root, prune)


def _prepare_new_cases(
    cases: Sequence[Case], root: Path, settings: StoreSettings, workers: int, progress: ProgressCallback
) -> BuildReport:
    """Prepare cases, and append their records to the list as they are finished."""
    records, _ = store.read_records(root)
    prepared, unchanged, failed, replaced = [], [], {}, []
    tasks = [(case, records.get(case.name)) for case in cases]

    with wrap_os_error(root), (root / store.RECORDS_NAME).open("a", encoding="utf-8") as records_file:
        progress("preparing", 0, len(tasks))
        results = store_case.prepare_parallel(tasks, root, settings, workers)
        for n_finished, (name, result) in enumerate(results, 1):
            progress("preparing", n_finished, len(tasks))
            if isinstance(result, PreparationFailure):
                failed[name] = result.reason
                if result.is_outdated:
                    records.pop(name, None)
            elif result is None:
                unchanged.append(name)
            else:
                records_file.write(result.to_json_line())
                records_file.flush()
                if name in records and records[name].input_hashes != result.input_hashes:
                    replaced.append(name)
                records[name] = result
                prepared.append(name)

    return BuildReport(
        prepared=tuple(sorted(prepared)),
        unchanged=tuple(sorted(unchanged)),
        failed=dict(sorted(failed.items())),
        missing=tuple(sorted(set(records) - {case.name for case in cases})),
        replaced=tuple(sorted(replaced)),
        records=records,
    )


def _remove_leftovers(report: BuildReport, root: Path, prune: bool) -> BuildReport:
    """Write the final list, and remove the files of cases that it lacks."""
    records = {name: report.records[name] for name in sorted(report.records)}
    missing = report.missing
    if prune:
        records = {name: record for name, record in records.items() if name not in missing}
        missing = ()

    _write_records(root, records)
    listed_paths = {store.case_path(root, name) for name in records}
    with wrap_os_error(root):
        for path in set((root / store.CASES_FOLDER).iterdir()) - listed_paths:
            path.unlink()
    return BuildReport(report.prepared, report.unchanged, report.failed, missing, report.replaced, records)


def _write_records(root: Path, records: dict[str, StoreRecord]) -> None:
    atomic_write_text(root / store.RECORDS_NAME, "".join(record.to_json_line() for record in records.values()))


def check_settings(root: Path, settings: StoreSettings) -> None:
    """Check that a store can be made or continued at a place.

    Args:
        root: Folder of the store.
        settings: How cases will be prepared.

    Raises:
        ConfigError: The store was prepared with other settings.
        OutputError: The folder is neither a store nor empty, or it cannot be written.
    """
    with wrap_os_error(root):
        if store.is_store(root):
            store_settings, _ = store.read_manifest(root)
            if store_settings != settings:
                raise ConfigError(f"{root} was prepared with {store_settings}, not {settings}; prepare another store")
        elif root.exists() and any(path.name != LOCK_NAME for path in root.iterdir()):
            raise OutputError(f"{root} is neither a store nor empty and stays as it is; choose another folder")


def init_store(root: Path, settings: StoreSettings) -> None:
    """Make an empty store, or remove damaged lines from the list of an existing one.

    Args:
        root: Folder of the store.
        settings: How cases will be prepared.

    Raises:
        OutputError: The store cannot be written.
    """
    manifest = {
        "what": store.FILE_KIND,
        "format": store.FORMAT_VERSION,
        "settings": asdict(settings),
        "versions": package_versions(),
    }
    with wrap_os_error(root):
        if not store.is_store(root):
            atomic_write_text(root / store.MANIFEST_NAME, json.dumps(manifest, indent=1) + "\n")
        (root / store.CASES_FOLDER).mkdir(exist_ok=True)
        records, _ = store.read_records(root)
        _write_records(root, records)


def preprocessing_record(data: DataConfig) -> PreprocessingRecord:
    """Record how the patients of a training are prepared, for the metadata of its model.

    Args:
        data: The `data` block of a config.

    Returns:
        Settings and package versions; for a store, the median center and width of each contrast too. A folder of cases
        is prepared when it is read.

    Raises:
        InputError: The store is damaged.
    """
    if data.root is None or not store.is_store(data.root):
        settings = StoreSettings(data.contrasts, data.source_contrast, data.target, data.planes)
        return PreprocessingRecord(settings=asdict(settings), versions=package_versions())

    opened_store = store.open_store(data.root)
    scales: dict[str, list[tuple[float, float]]] = {}
    for record in opened_store.records.values():
        for contrast, scale in record.scales.items():
            scales.setdefault(contrast, []).append(scale)
    medians = {contrast: np.median(contrast_scales, 0).tolist() for contrast, contrast_scales in scales.items()}

    return PreprocessingRecord(settings=asdict(opened_store.settings), versions=opened_store.versions, scales=medians)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages on which a prepared case depends.

    Returns:
        By package, its version.
    """
    return {"dsdiff": __version__} | {name: version(name) for name in ("numpy", "scipy", "nibabel", "h5py")}


def copy_split(path: Path, root: Path, report: BuildReport) -> None:
    """Copy a split file into the store.

    Args:
        path: The split file.
        root: Folder of the store.
        report: What the store holds.

    Raises:
        ConfigError: The split file is damaged, or names a case that the store does not hold.
        OutputError: The copy cannot be written.
    """
    split = splits.read(path)
    names = set(chain.from_iterable(split.folds))
    if missing := sorted(names - set(report.records)):
        raise ConfigError(f"{path} names cases that {root} does not hold: {', '.join(missing[:3])}")
    splits.write(split, root / SPLIT_NAME)
