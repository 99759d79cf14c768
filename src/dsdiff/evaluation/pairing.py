"""Pair synthetic volumes with acquired cases: by file names, never by their order."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsdiff.errors import CaseError, ConfigError, InputError
from dsdiff.io.cases import Case, discover_cases, list_files
from dsdiff.io.file_names import NIFTI_SUFFIX, parse_file_name
from dsdiff.system.unicode_names import to_case_name

OUTPUT_PATTERN = re.compile(r"(?P<case>.+)_desc-(?P<kind>synth|std|sample\d+)T1ce_T1w\.nii(\.gz)?")


@dataclass(frozen=True)
class SyntheticFiles:
    """Files of one synthetic T1ce: itself (or the mean of samples), its standard deviation, and samples."""

    mean: Path | None = None
    std: Path | None = None
    samples: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Pairing:
    """Synthetic files with their acquired cases.

    Attributes:
        pairs: What can be scored.
        unpaired_reasons: Case -> why its synthetic files cannot be scored.
        missing_predictions: Acquired cases without a synthetic T1ce.
    """

    pairs: tuple[tuple[SyntheticFiles, Case], ...]
    unpaired_reasons: Mapping[str, str]
    missing_predictions: tuple[str, ...]


def find_synthetic(folder: Path) -> dict[str, SyntheticFiles]:
    """Find every synthetic T1ce below a folder, named as `dsdiff synth` does or as a T1ce of BraTS or BIDS.

    Args:
        folder: The folder.

    Returns:
        Case name -> files.

    Raises:
        InputError: There is none.
        CaseError: A case has two.
    """
    files_by_case: dict[str, dict[str, Path]] = {}
    for path in list_files(folder):
        if match := OUTPUT_PATTERN.fullmatch(to_case_name(path.name)):
            case, kind = match["case"], match["kind"]
        elif (name_parts := parse_file_name(path)) and name_parts[1] == "t1ce":
            case, kind = name_parts[0], "synth"
        else:
            continue
        files = files_by_case.setdefault(case, {})
        if kind in files:
            raise CaseError(f"case {case} has more than one synthetic T1ce: {files[kind]} and {path}")
        files[kind] = path

    if not files_by_case:
        raise InputError(
            f"no synthetic T1ce in {folder}; expected files such as <case>_desc-synthT1ce_T1w.nii.gz "
            "(dsdiff synth), <case>_t1ce.nii.gz or <case>-t1c.nii.gz"
        )
    return {case: _group_files(files) for case, files in files_by_case.items()}


def _group_files(files: Mapping[str, Path]) -> SyntheticFiles:
    samples = tuple(files[kind] for kind in sorted(files) if kind.startswith("sample"))
    return SyntheticFiles(files.get("synth"), files.get("std"), samples)


def pair_cases(prediction: Path, truth: Path, t1: Path | None, seg: Path | None) -> Pairing:
    """Pair synthetic with acquired volumes.

    Args:
        prediction: A folder of synthetic T1ce, or one file.
        truth: A folder of acquired cases, or one T1ce file.
        t1: The T1 of a truth that is a file.
        seg: A segmentation of the only case, or a folder of segmentations by case name.

    Returns:
        The pairs, at least one.

    Raises:
        InputError: A path does not exist, or no case can be paired.
        ConfigError: `t1` or `seg` does not fit the truth.
        CaseError: A case has more than one synthetic T1ce or segmentation.
    """
    for path in (prediction, truth, t1, seg):
        if path and not path.exists():
            raise InputError(f"{path}: no such file or folder")

    acquired = _find_acquired(truth, t1)
    synthetic = _match_predictions(prediction, acquired, is_file=truth.is_file())
    labels = _find_segmentations(seg, acquired) if seg else {}
    cases = {case.name: _with_segmentation(case, labels.get(case.name, {})) for case in acquired}

    reasons = {name: "no acquired T1ce by this name in TRUTH" for name in synthetic if name not in cases}
    for name, files in synthetic.items():
        if not files.mean:
            reasons[name] = "no synthetic T1ce, only its standard deviation or samples"

    names = [name for name in sorted(synthetic) if name not in reasons]
    if not names:
        example = f"{sorted(synthetic)[0]} against {sorted(cases)[0]}"
        raise InputError(f"no case of {prediction} is one of {truth}: found {example}; names must agree")
    missing = tuple(name for name in sorted(cases) if name not in synthetic)
    return Pairing(tuple((synthetic[name], cases[name]) for name in names), reasons, missing)


def _find_acquired(truth: Path, t1: Path | None) -> list[Case]:
    """Return the acquired cases of a folder, or the case of a T1ce file."""
    if truth.is_file():
        name_parts = parse_file_name(truth)
        name = name_parts[0] if name_parts else NIFTI_SUFFIX.sub("", to_case_name(truth.name))
        return [Case(name, {"t1ce": truth} | ({"t1": t1} if t1 else {}))]
    if t1:
        raise ConfigError("--t1 needs a TRUTH that is a file; in a folder the T1 of a case lies beside its T1ce")
    return discover_cases(truth)


def _match_predictions(prediction: Path, acquired: list[Case], is_file: bool) -> dict[str, SyntheticFiles]:
    """Return the synthetic files by case; if either side is a single file, its name need not agree."""
    if prediction.is_dir():
        synthetic = find_synthetic(prediction)
        if is_file and len(synthetic) == 1:
            return {acquired[0].name: next(iter(synthetic.values()))}
        return synthetic

    files = SyntheticFiles(prediction)
    if len(acquired) == 1:
        return {acquired[0].name: files}
    if match := OUTPUT_PATTERN.fullmatch(to_case_name(prediction.name)):
        return {match["case"]: files}
    name_parts = parse_file_name(prediction)
    return {name_parts[0] if name_parts else to_case_name(prediction.name): files}


def _with_segmentation(case: Case, labels: Mapping[str, Path]) -> Case:
    """Return the case with the segmentation that was given for it."""
    duplicates = {contrast: paths for contrast, paths in case.duplicates.items() if contrast not in labels}
    return Case(case.name, {**case.files, **labels}, duplicates)


def _find_segmentations(seg: Path, acquired: list[Case]) -> dict[str, dict[str, Path]]:
    """Return case name -> {"seg": file}."""
    if seg.is_dir():
        return _find_segmentations_below(seg, acquired)
    if len(acquired) > 1:
        raise ConfigError(f"--seg {seg} is one file for {len(acquired)} cases; give the folder of their segmentations")
    return {acquired[0].name: {"seg": seg}}


def _find_segmentations_below(folder: Path, acquired: list[Case]) -> dict[str, dict[str, Path]]:
    labeled_cases = discover_cases(folder)
    for case in labeled_cases:
        if "seg" in case.duplicates:
            raise CaseError(f"case {case.name} of {folder} has more than one segmentation; leave one")

    labels = {case.name: {"seg": case.files["seg"]} for case in labeled_cases if "seg" in case.files}
    if not set(labels) & {case.name for case in acquired}:
        example = f"{', '.join(sorted(labels)[:3]) or 'no segmentation'} against {acquired[0].name}"
        raise InputError(f"no segmentation of {folder} is of a case of TRUTH: found {example}; names must agree")
    return labels
