"""Which synthetic volume belongs to which patient: by the names of files, never by their order."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsdiff.errors import CaseError, ConfigError, InputError
from dsdiff.io import cases
from dsdiff.io.cases import Case

OURS = re.compile(r"(?P<case>.+)_desc-(?P<kind>synth|std|sample\d+)T1ce_T1w\.nii(\.gz)?")


@dataclass(frozen=True)
class Synthetic:
    """The files of one synthetic T1ce: itself (or the mean of samples), their standard deviation, the samples."""

    mean: Path | None = None
    std: Path | None = None
    samples: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """What there is to score, and what there is not: `unpaired` says of a case why it cannot be scored."""

    found: tuple[tuple[Synthetic, Case], ...]
    unpaired: Mapping[str, str]
    without_prediction: tuple[str, ...]


def synthetic(folder: Path) -> dict[str, Synthetic]:
    """Every synthetic T1ce below a folder, by case: as `dsdiff synth` names it, or any T1ce by a name of the field.

    Raises `InputError` where there is none, `CaseError` where a case has two.
    """
    files: dict[str, dict[str, Path]] = {}
    for path in cases.files_below(folder):
        if ours := OURS.fullmatch(path.name):
            case, kind = ours["case"], ours["kind"]
        elif (named := cases.contrast_of(path)) and named[1] == "t1ce":
            case, kind = named[0], "synth"
        else:
            continue
        if kind in files.setdefault(case, {}):
            raise CaseError(f"case {case} has more than one synthetic T1ce: {files[case][kind]} and {path}")
        files[case][kind] = path
    if not files:
        raise InputError(
            f"{folder} holds no synthetic T1ce; needed are files such as <case>_desc-synthT1ce_T1w.nii.gz "
            "(dsdiff synth), <case>_t1ce.nii.gz or <case>-t1c.nii.gz"
        )
    return {case: _synthetic(found) for case, found in files.items()}


def _synthetic(found: Mapping[str, Path]) -> Synthetic:
    samples = tuple(found[kind] for kind in sorted(found) if kind.startswith("sample"))
    return Synthetic(found.get("synth"), found.get("std"), samples)


def find(prediction: Path, truth: Path, t1: Path | None, seg: Path | None) -> Pairs:
    """Pair what was synthesised with what was acquired; each side is a folder or one file.

    t1: for a truth that is a file, the patient's T1. seg: a segmentation (one patient), or a folder of them by case.
    Raises `UserError` where nothing can be paired.
    """
    for path in (prediction, truth, *(extra for extra in (t1, seg) if extra)):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    acquired = _acquired(truth, t1)
    made = _made(prediction, acquired, alone=truth.is_file())
    labels = _labels(seg, acquired) if seg else {}
    known = {case.name: _labelled(case, labels.get(case.name, {})) for case in acquired}
    unpaired = {name: "no acquired T1ce by this name in TRUTH" for name in made if name not in known}
    unpaired |= {name: "no synthetic T1ce, only its spread or samples" for name in made if not made[name].mean}
    usable = [name for name in sorted(made) if name not in unpaired]
    if not usable:
        first = f"{sorted(made)[0]} against {sorted(known)[0]}"
        raise InputError(f"no case of {prediction} is one of {truth}: found {first}; names must agree")
    missing = tuple(name for name in sorted(known) if name not in made)
    return Pairs(tuple((made[name], known[name]) for name in usable), unpaired, missing)


def _acquired(truth: Path, t1: Path | None) -> list[Case]:
    if truth.is_file():
        named = cases.contrast_of(truth)
        name = named[0] if named else cases.NIFTI.sub("", truth.name)
        return [Case(name, {"t1ce": truth} | ({"t1": t1} if t1 else {}))]
    if t1:
        raise ConfigError("--t1 goes with a TRUTH that is a file; in a folder the T1 of a case lies beside its T1ce")
    return cases.discover(truth)


def _made(prediction: Path, acquired: list[Case], alone: bool) -> dict[str, Synthetic]:
    """What was synthesised, by case; where either side is a single file, its name need not be the other's."""
    if prediction.is_dir():
        made = synthetic(prediction)
        return {acquired[0].name: next(iter(made.values()))} if alone and len(made) == 1 else made
    if len(acquired) == 1:
        return {acquired[0].name: Synthetic(prediction)}
    ours = OURS.fullmatch(prediction.name)
    named = (ours["case"], "") if ours else cases.contrast_of(prediction)
    return {named[0] if named else prediction.name: Synthetic(prediction)}


def _labelled(case: Case, labels: Mapping[str, Path]) -> Case:
    """The case with its segmentation exchanged for the one that was named."""
    doubles = {contrast: paths for contrast, paths in case.doubles.items() if contrast not in labels}
    return Case(case.name, {**case.files, **labels}, doubles)


def _labels(seg: Path, acquired: list[Case]) -> dict[str, dict[str, Path]]:
    if seg.is_dir():
        there = cases.discover(seg)
        if twice := [case for case in there if "seg" in case.doubles]:
            raise CaseError(f"case {twice[0].name} of {seg} has more than one segmentation: give one")
        found = {case.name: {"seg": case.files["seg"]} for case in there if "seg" in case.files}
        if not set(found) & {case.name for case in acquired}:
            first = f"{', '.join(sorted(found)[:3]) or 'no segmentation'} against {acquired[0].name}"
            raise InputError(f"no segmentation of {seg} is of a case of TRUTH: found {first}; names must agree")
        return found
    if len(acquired) > 1:
        raise ConfigError(f"--seg {seg} is one file for {len(acquired)} cases; give the folder of their segmentations")
    return {acquired[0].name: {"seg": seg}}
