"""Which patients a training sees: real and simulated ones, the held-out fold, and the style of their targets."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dsdiff.data import preparation, store, target_style
from dsdiff.data.dataset import TrainingPatient
from dsdiff.data.settings import DataConfig
from dsdiff.data.target_style import StyleStats
from dsdiff.errors import ConfigError
from dsdiff.io import splits
from dsdiff.io.cases import discover_cases, file_hash
from dsdiff.io.file_names import patient_id
from dsdiff.style import retrieval
from dsdiff.style.regression import StyleKind
from dsdiff.system.console import ProgressCallback, ignore_progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """The patients of a training.

    Attributes:
        training: Patients to train on.
        phantoms: Simulated patients to mix in.
        held_out: Patients for validation, never trained on.
        style_stats: Styles of the training targets, None for networks that are not conditioned on style.
    """

    training: Sequence[TrainingPatient]
    phantoms: Sequence[TrainingPatient] = ()
    held_out: Sequence[TrainingPatient] = ()
    style_stats: StyleStats | None = None


def assemble_cohort(
    data: DataConfig, style_kind: StyleKind | Literal["none"], progress: ProgressCallback = ignore_progress
) -> TrainingData:
    """Read the patients that a config names, and set the style of their targets.

    Args:
        data: The `data` block of a config.
        style_kind: A kind of `style.regression.KNOTS` for networks that are conditioned on style, else "none".
        progress: Called while files are read.

    Returns:
        The patients of the training.

    Raises:
        ConfigError: There is no patient to train on, or the split does not fit the patients.
        InputError: A case or a store cannot be read.
    """
    if data.root is None and data.phantoms is None:
        raise ConfigError("no training data: set data.root or data.phantoms")
    if data.phantom_fraction and data.phantoms is None:
        logger.info(
            f"data.phantom_fraction is {data.phantom_fraction}, but data.phantoms is not set: training uses no phantoms"
        )

    real = read_patients(data.root, data, progress) if data.root else []
    phantoms = read_patients(data.phantoms, data, progress) if data.phantoms else []

    held_out_names = _held_out_names(data, real, phantoms)
    held_out_ids = {patient_id(name) for name in held_out_names}
    training = [patient for patient in real if patient_id(patient.name) not in held_out_ids]
    held_out = [patient for patient in real if patient.name in held_out_names]
    if not training and not phantoms:
        raise ConfigError(
            f"fold {data.fold} of {data.split} holds out every patient of {data.root}: no patient is left to train on"
        )

    cohort = TrainingData(training, phantoms, held_out)
    if data.target_style == "average":
        cohort = _match_average_style(cohort)
    elif style_kind != "none":
        cohort = _attach_style_codes(cohort, style_kind)
    return replace(cohort, training=cohort.training or cohort.phantoms)


def data_fingerprints(data: DataConfig) -> dict[str, str]:
    """Compute hashes that change when the patients of a config change.

    Args:
        data: The `data` block of a config.

    Returns:
        Hashes of "split", "store" (`data.root`) and "phantoms", as far as the config names them and they exist.

    Raises:
        ConfigError: The split file is damaged.
        InputError: A case or a store cannot be read.
    """
    fingerprints = {} if data.split is None else {"split": splits.read(data.split).hash}
    for name, root in (("store", data.root), ("phantoms", data.phantoms)):
        if root is not None and root.exists():
            fingerprints[name] = _fingerprint(root, data)
    return fingerprints


def read_patients(root: Path, data: DataConfig, progress: ProgressCallback = ignore_progress) -> list[TrainingPatient]:
    """Open the patients of a store, or read those of a folder of cases into memory.

    Args:
        root: A store or a folder of cases. Slices of a store are read when they are needed.
        data: Contrasts and planes to read.
        progress: Called before each case of a folder, and after the last one.

    Returns:
        The patients.

    Raises:
        InputError: A case or the store cannot be read.
        ConfigError: The store was prepared with other settings.
    """
    if store.is_store(root):
        return store.open_store(root).load_patients(data.contrasts, data.target, data.source_contrast, data.planes)

    cases = discover_cases(root)
    patients: list[TrainingPatient] = []
    for case in cases:
        progress("reading patients", len(patients), len(cases))
        patients.append(preparation.load_patient(case, data.contrasts, data.target, data.source_contrast))
    progress("reading patients", len(patients), len(cases))

    n_bytes = 0
    for patient in patients:
        images, region = patient.slices.load_all()
        n_bytes += images.nbytes + region.nbytes
    logger.info(
        f"{root}: {len(patients)} patients, {n_bytes / 1e9:.2f} GB of memory (a store of dsdiff prepare needs none)"
    )
    return patients


def _match_average_style(cohort: TrainingData) -> TrainingData:
    """Give all targets that are trained on the average style; phantoms count only if there is no real patient."""
    average = target_style.average_style(cohort.training or cohort.phantoms)
    return replace(
        cohort,
        training=target_style.match_style(cohort.training, average),
        phantoms=target_style.match_style(cohort.phantoms, average),
    )


def _attach_style_codes(cohort: TrainingData, kind: StyleKind) -> TrainingData:
    """Attach style codes to all patients. Phantoms are expected from phantoms, real patients from real ones."""
    training, phantoms = cohort.training, cohort.phantoms
    style_stats: StyleStats
    if phantoms:
        phantoms, style_stats = target_style.attach_style_codes(phantoms, kind)
    if training:
        training, style_stats = target_style.attach_style_codes(training, kind)
        if style_stats.retriever is not None and phantoms:
            features = [phantom.features for phantom in phantoms]
            styles = [phantom.slices.fit_style(kind) for phantom in phantoms]
            retriever = retrieval.add_phantoms(style_stats.retriever, features, styles)
            style_stats = replace(style_stats, retriever=retriever)

    if kind == "curves" and style_stats.retriever is None:
        logger.info(
            f"{len(training or phantoms)} patients are too few to predict styles: held-out and new patients get the "
            "average style"
        )
    held_out = target_style.attach_expected_codes(cohort.held_out, style_stats)
    return TrainingData(training, phantoms, held_out, style_stats)


def _held_out_names(
    data: DataConfig, real: Sequence[TrainingPatient], phantoms: Sequence[TrainingPatient]
) -> tuple[str, ...]:
    """Return the cases of the held-out fold. Raise `ConfigError` if the split does not fit the patients."""
    if data.split is None or data.fold is None:
        return ()

    split = splits.read(data.split)
    names = {patient.name for patient in real}
    held_out = split.held_out(data.fold)
    if missing := sorted(set(held_out) - names):
        raise ConfigError(f"{data.split} names cases that {data.root} does not hold: {', '.join(missing[:3])}")

    held_out_ids = {patient_id(name) for name in held_out}
    leaked = sorted(phantom.name for phantom in phantoms if patient_id(phantom.name) in held_out_ids)
    if leaked:
        raise ConfigError(
            f"data.phantoms {data.phantoms} holds cases of the held-out fold ({', '.join(leaked[:3])}): they would be "
            "trained on; give other phantoms"
        )

    _log_unsplit_cases(data, names.difference(*split.folds), held_out_ids)
    return held_out


def _log_unsplit_cases(data: DataConfig, unsplit: set[str], held_out_ids: set[str]) -> None:
    """Log what happens to cases that are in no fold: visits of held-out patients are left out, others trained on."""
    visits = sorted(name for name in unsplit if patient_id(name) in held_out_ids)
    if visits:
        logger.info(
            f"{data.split} lacks these visits of held-out patients, training leaves them out: {', '.join(visits)}"
        )

    trained = sorted(unsplit.difference(visits))
    if trained:
        examples = ", ".join(trained[:5]) + " ..." * (len(trained) > 5)
        logger.info(
            f"{len(trained)} patients of {data.root} are in no fold of {data.split}, training uses them: {examples}"
        )


def _fingerprint(root: Path, data: DataConfig) -> str:
    """Hash a store, or those files of a folder of cases that training reads."""
    if store.is_store(root):
        return store.open_store(root).hash

    contrasts = (*data.contrasts, data.target, "seg")
    hashes = {}
    for case in discover_cases(root):
        hashes[case.name] = {name: file_hash(case.files[name]) for name in contrasts if name in case.files}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:12]
