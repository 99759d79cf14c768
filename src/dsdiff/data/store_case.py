"""Prepare cases into a store: read, preprocess, cut to the brain and write, in one process or in several."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from dsdiff.data import preparation, store
from dsdiff.data.dataset import InMemorySlices
from dsdiff.data.hdf5_slices import write_case
from dsdiff.data.preparation import CroppedCase
from dsdiff.data.store import StoreRecord, StoreSettings
from dsdiff.errors import DsdiffError
from dsdiff.io.cases import Case, file_hash
from dsdiff.preprocessing.planes import slices_to_plane
from dsdiff.style.regression import KNOTS, StyleKind
from dsdiff.system.signals import defer_sigint, ignore_signals


@dataclass(frozen=True)
class PreparationFailure:
    """A case that could not be prepared.

    Attributes:
        reason: What went wrong.
        is_outdated: Whether the store holds this case from other input files than today's.
    """

    reason: str
    is_outdated: bool


PreparationResult = StoreRecord | PreparationFailure | None  # None: the store has this case already


def prepare_parallel(
    tasks: Sequence[tuple[Case, StoreRecord | None]], root: Path, settings: StoreSettings, workers: int
) -> Iterator[tuple[str, PreparationResult]]:
    """Prepare cases in worker processes.

    Args:
        tasks: Cases, each with its record in the store, or None if it has none.
        root: Folder of the store.
        settings: How cases are prepared.
        workers: Number of processes. With 1 the work is done in this one.

    Yields:
        Names of cases as they are finished, with the results of `prepare_case`.

    Raises:
        DsdiffError: A worker process was killed.
    """
    job = partial(prepare_case, root=root, settings=settings)
    if workers == 1:
        for case, record in tasks:
            yield case.name, job(case, record)
        return

    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=ignore_signals) as pool:
        try:
            with defer_sigint():
                names = {pool.submit(job, case, record): case.name for case, record in tasks}
            for future in as_completed(names):
                yield names[future], future.result()
        except BrokenProcessPool as error:
            raise DsdiffError(
                "a process that prepares cases was killed, most likely for lack of memory; the finished cases are in "
                "the store: run the same command again with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def prepare_case(case: Case, record: StoreRecord | None, *, root: Path, settings: StoreSettings) -> PreparationResult:
    """Prepare one case, unless the store has it from the same files.

    Args:
        case: The case.
        record: Its record in the store, None if it has none.
        root: Folder of the store.
        settings: How cases are prepared.

    Returns:
        The new record, None if the store has the case already, or why it cannot be prepared.
    """
    is_outdated = False
    try:
        input_hashes = _hash_inputs(case, settings)
        is_outdated = record is not None and record.input_hashes != input_hashes
        path = store.case_path(root, case.name)
        if record is not None and not is_outdated and path.is_file() and file_hash(path) == record.sha256:
            return None

        cropped = preparation.crop_case(case, _list_sources(case, settings), settings.target, settings.source_contrast)
        style_equations = _fit_styles(cropped, settings)
        write_case(cropped, path, settings.planes)
        return _make_record(case.name, cropped, style_equations, input_hashes, path, settings)
    except Exception as error:  # one odd case must not stop the others
        return PreparationFailure(str(error) or type(error).__name__, is_outdated)


def _list_sources(case: Case, settings: StoreSettings) -> list[str]:
    """List the source contrasts to read. The one whose foreground is the brain comes first, present or not."""
    first = settings.source_contrast
    return [first, *(name for name in settings.contrasts if name in case.contrasts and name != first)]


def _hash_inputs(case: Case, settings: StoreSettings) -> dict[str, str]:
    contrasts = (*_list_sources(case, settings), settings.target, "seg")
    return {name: file_hash(case.files[name]) for name in contrasts if name in case.files}


def _fit_styles(cropped: CroppedCase, settings: StoreSettings) -> dict[StyleKind, dict[str, list]]:
    """Fit each kind of style to the target. Return nothing if a source contrast is absent."""
    if any(name not in cropped.images for name in settings.contrasts):
        return {}
    images = np.stack([cropped.images[name] for name in (*settings.contrasts, settings.target)])
    slices = InMemorySlices(images, cropped.region)

    equations: dict[StyleKind, dict[str, list]] = {}
    for kind in KNOTS:
        style = slices.fit_style(kind)
        equations[kind] = {"gram": style.gram.tolist(), "moment": style.moment.tolist()}
    return equations


def _make_record(
    name: str,
    cropped: CroppedCase,
    style_equations: dict[StyleKind, dict[str, list]],
    input_hashes: dict[str, str],
    path: Path,
    settings: StoreSettings,
) -> StoreRecord:
    max_region_digits = {}
    for plane in settings.planes:
        max_regions = slices_to_plane(cropped.region, plane).max((1, 2))
        max_region_digits[plane] = "".join(map(str, max_regions))

    return StoreRecord(
        name=name,
        max_region_digits=max_region_digits,
        absent=tuple(contrast for contrast in settings.contrasts if contrast not in cropped.images),
        scales={contrast: (scale.center, scale.width) for contrast, scale in cropped.scales.items()},
        spacing=cropped.spacing,
        warnings=cropped.warnings,
        input_hashes=input_hashes,
        sha256=file_hash(path),
        size=path.stat().st_size,
        style_equations=style_equations,
        features=cropped.features,
    )
