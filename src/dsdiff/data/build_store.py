"""Prepare a cohort once: every case read, scaled and cut to its brain, into a store (see `data.store`)."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console

from dsdiff import __version__
from dsdiff.data import dataset, splits, store
from dsdiff.data.dataset import LESION, InMemory
from dsdiff.data.settings import DataConfig
from dsdiff.data.store import Entry, Settings
from dsdiff.errors import ConfigError, DsdiffError, OutputError
from dsdiff.io import cases
from dsdiff.io.cases import Case
from dsdiff.preprocessing.planes import sliced
from dsdiff.style.regression import KNOTS
from dsdiff.system.atomic import LOCK, alone, write_whole, writing
from dsdiff.system.console import bars
from dsdiff.system.signals import deaf, unheard

SPLIT = "split.json"


@dataclass(frozen=True)
class Report:
    """What a run of `prepare` found and did. made, kept: names; failed: names with the reason; gone: in the store, but
    no longer in the folder; others: made anew, since their files are others than before."""

    made: tuple[str, ...]
    kept: tuple[str, ...]
    failed: dict[str, str]
    gone: tuple[str, ...]
    others: tuple[str, ...]
    entries: dict[str, Entry] = field(repr=False)

    def lines(self) -> Iterator[str]:
        """What is told at the end, line by line."""
        entries = self.entries.values()
        peaks = "".join(digits for entry in entries for digits in entry.peaks.values())
        lesions, size = sum(int(peak) >= LESION for peak in peaks), sum(entry.size for entry in entries)
        yield f"{len(entries)} cases ({len(self.made)} prepared now, {len(self.kept)} were there already)"
        yield f"{len(peaks)} slices with brain, {lesions} of them with tumour; {size / 1e6:.1f} MB"
        for contrast in sorted({name for entry in entries for name in entry.absent}):
            lacking = [entry.name for entry in entries if contrast in entry.absent]
            yield f"{contrast} is absent from {len(lacking)}: {_listed(lacking)}"
        for entry in entries:
            for warning in entry.warnings:
                yield f"warning: {entry.name}: {warning}"
        if self.others:
            yield f"made anew, of other files than before (the same patients?): {_listed(self.others)}"
        if self.gone:
            yield f"in the store, and trained on, but not in the folder: {_listed(self.gone)} (--prune takes them out)"
        for name, reason in self.failed.items():
            yield f"failed: {name}: {reason}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + " ..." * (len(names) > 5)


def prepare(
    folder: Path, root: Path, settings: Settings, workers: int, console: Console, prune: bool = False
) -> Report:
    """Prepare every case of a folder that does not stand in the store yet, or whose files changed since.

    prune: take out of the store what is not in the folder. A case that cannot be prepared is told of in the report, is
    in the store no longer, and does not stop the others. Raises `ConfigError` where the store was prepared otherwise,
    `OutputError` where it cannot be written, and what discovering cases raises.
    """
    found = cases.discover(folder)
    refuse_other(root, settings)
    with alone(root):
        return _prepared(found, root, settings, workers, console, prune)


def _prepared(
    found: Sequence[Case], root: Path, settings: Settings, workers: int, console: Console, prune: bool
) -> Report:
    claim(root, settings)
    entries, _ = store.read_list(root)
    made, kept, failed, others = [], [], {}, []
    todo = [(case, entries.get(case.name)) for case in found]
    with (
        writing(root),
        bars(console, count=True) as progress,
        (root / store.LIST).open("a", encoding="utf-8") as listed,
    ):
        task = progress.add_task("preparing", total=len(todo))
        for name, outcome in _outcomes(todo, root, settings, workers):
            progress.advance(task)
            if isinstance(outcome, _Failure):
                failed[name] = outcome.reason
                if outcome.others:
                    entries.pop(name, None)
            elif outcome is None:
                kept.append(name)
            else:
                listed.write(outcome.line)
                listed.flush()
                if name in entries and entries[name].inputs != outcome.inputs:
                    others.append(name)
                entries[name] = outcome
                made.append(name)
    gone = sorted(set(entries) - {case.name for case in found})
    entries = {name: entries[name] for name in sorted(entries) if not (prune and name in gone)}
    write_whole(root / store.LIST, "".join(entry.line for entry in entries.values()))
    listed_files = {store.case_file(root, name) for name in entries}
    with writing(root):
        for file in set((root / store.FOLDER).iterdir()) - listed_files:
            file.unlink()
    left = () if prune else tuple(gone)
    return Report(
        tuple(sorted(made)), tuple(sorted(kept)), dict(sorted(failed.items())), left, tuple(sorted(others)), entries
    )


def refuse_other(root: Path, settings: Settings) -> None:
    """Raise `ConfigError` for a store that was prepared otherwise, `OutputError` for anything but one or nothing."""
    with writing(root):
        if store.is_store(root):
            there, _ = store.read_manifest(root)
            if there != settings:
                raise ConfigError(f"{root} was prepared with {there}, not {settings}; prepare another store")
        elif root.exists() and any(path.name != LOCK for path in root.iterdir()):
            raise OutputError(f"{root} is neither a store nor empty; it is left alone")


def claim(root: Path, settings: Settings) -> None:
    """Make the store, or end a line of its list that was left torn."""
    with writing(root):
        told = {"what": store.WHAT, "format": store.FORMAT, "settings": asdict(settings), "versions": versions()}
        if not store.is_store(root):
            write_whole(root / store.MANIFEST, json.dumps(told, indent=1) + "\n")
        (root / store.FOLDER).mkdir(exist_ok=True)
        entries, _ = store.read_list(root)
        write_whole(root / store.LIST, "".join(entry.line for entry in entries.values()))


def manifest(data: DataConfig) -> dict[str, str]:
    """How the patients of a training were prepared: what goes into the facts of its model folder.

    preprocessing: settings, versions and the median centre and width of every contrast, as JSON; store: its hash.
    A folder of cases is prepared as it is read: by the settings of the config and today's versions, without a hash.
    """
    if data.root is None or not store.is_store(data.root):
        told = {
            "settings": asdict(Settings(data.contrasts, data.source_contrast, data.target, data.planes)),
            "versions": versions(),
        }
        return {"preprocessing": json.dumps(told)}
    opened = store.open_store(data.root)
    scales: dict[str, list[tuple[float, float]]] = {}
    for entry in opened.entries.values():
        for name, scale in entry.scales.items():
            scales.setdefault(name, []).append(scale)
    medians = {name: np.median(found, 0).tolist() for name, found in scales.items()}
    told = {"settings": asdict(opened.settings), "versions": opened.versions, "scales": medians}
    return {"preprocessing": json.dumps(told), "store": opened.hash}


def versions() -> dict[str, str]:
    """Of what has a say in how a case is prepared."""
    return {"dsdiff": __version__} | {name: version(name) for name in ("numpy", "scipy", "nibabel", "h5py")}


@dataclass(frozen=True)
class _Failure:
    """Why a case could not be prepared; others: its files are not those that what stands in the store was made of."""

    reason: str
    others: bool


def _outcomes(
    todo: Sequence[tuple[Case, Entry | None]], root: Path, settings: Settings, workers: int
) -> Iterator[tuple[str, Entry | _Failure | None]]:
    """Name of every case, as they are finished, and what `_one` says of it.

    Raises `DsdiffError` where a worker was killed.
    """
    job = partial(_one, root=root, settings=settings)
    if workers == 1:
        yield from ((case.name, job(case, known)) for case, known in todo)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=deaf) as pool:
        try:
            with unheard():
                running = {pool.submit(job, case, known): case.name for case, known in todo}
            for done in as_completed(running):
                yield running[done], done.result()
        except BrokenProcessPool as error:
            raise DsdiffError(
                "a process that prepares cases was killed, most likely for want of memory: what was prepared stands; "
                "the same command with fewer --workers goes on"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _one(case: Case, known: Entry | None, *, root: Path, settings: Settings) -> Entry | _Failure | None:
    """The entry of a case that was prepared now, None where it stands in the store as its files are, or what failed."""
    others = False
    try:
        present = [name for name in settings.contrasts if name in case.named]
        sources = [settings.start, *(name for name in present if name != settings.start)]
        read_ones = (*sources, settings.target, "seg")
        inputs = {name: cases.file_hash(case.files[name]) for name in read_ones if name in case.files}
        file = store.case_file(root, case.name)
        others = known is not None and known.inputs != inputs
        if known is not None and known.inputs == inputs and file.is_file() and cases.file_hash(file) == known.sha256:
            return None
        read = dataset.boxed(case, sources, settings.target, settings.start)
        scales = {name: (scale.centre, scale.width) for name, scale in read.scales.items()}
        absent = tuple(name for name in settings.contrasts if name not in present)
        styles: dict[str, dict[str, list]] = {}
        if not absent:
            images = np.stack([read.images[name] for name in (*settings.contrasts, settings.target)])
            found = {kind: InMemory(images, read.region).style(kind) for kind in KNOTS}
            styles = {
                kind: {"gram": style.gram.tolist(), "moment": style.moment.tolist()} for kind, style in found.items()
            }
        store.write_case(read, file, settings.planes)
        return Entry(
            case.name,
            {plane: "".join(map(str, sliced(read.region, plane).max((1, 2)))) for plane in settings.planes},
            absent,
            scales,
            read.spacing,
            read.warnings,
            inputs,
            cases.file_hash(file),
            file.stat().st_size,
            styles,
            read.measured,
        )
    except Exception as error:  # one odd case must not stop the others
        return _Failure(str(error) or type(error).__name__, others)


def keep_split(path: Path, root: Path, report: Report) -> None:
    """Copy a split file into the store. Raises `ConfigError` where it names a case that the store does not hold."""
    split = splits.read(path)
    if lost := sorted({name for fold in split.folds for name in fold} - set(report.entries)):
        raise ConfigError(f"{path} names cases that {root} does not hold: {', '.join(lost[:3])}")
    splits.write(split, root / SPLIT)
