"""Phantoms in a folder: which stand there, and writing one whole or not at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dsdiff.errors import OutputError
from dsdiff.io import nifti
from dsdiff.phantom.simulate import GENERATION, Phantom, case_name
from dsdiff.system import atomic


def stands(folder: Path, seed: int, target_style: str, noise: float) -> bool:
    """Whether the patient of a seed, simulated like that, stands in a folder.

    Raises `OutputError` where one simulated otherwise or by an older dsdiff does, or something else by its name.
    """
    target = folder / case_name(seed)
    if not target.exists():
        return False
    if (found := _told(target)) != (asked := {"target_style": target_style, "noise": noise, "generation": GENERATION}):
        raise OutputError(f"{target} was simulated with {found}, not {asked}; choose another folder or seed")
    return True


def same_generation(folder: Path) -> None:
    """Raises `OutputError` where a phantom of an older dsdiff stands in a folder; its tissues differ (ADR 14)."""
    for file in sorted(folder.glob("*/phantom-*_phantom.json")):
        if (found := _told(file.parent)["generation"]) != GENERATION:
            raise OutputError(f"{file.parent} is of generation {found}, not {GENERATION}; choose another folder")


def _told(target: Path) -> dict[str, Any]:
    """How the phantom in a folder says that it was simulated."""
    try:
        told = json.loads((target / f"{target.name}_phantom.json").read_text(encoding="utf-8"))
        return {"target_style": told["target_style"], "noise": told["noise"], "generation": told.get("generation", 1)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{target} is no phantom; it is left alone (choose another folder)") from error


def write(phantom: Phantom, folder: Path) -> Path:
    """Writes <case>/<case>_{t1,t1ce,t2,flair,seg,enh}.nii.gz and <case>_phantom.json in `folder`; returns the first.

    All or nothing (see `folders.whole`). Raises `OutputError` when the case is there already or cannot be written.
    """
    target = Path(folder) / phantom.case
    if target.exists():
        raise OutputError(f"{target} is there already; remove it or choose another seed or folder")
    with atomic.whole(target) as unfinished:
        for name, volume in (phantom.volumes | {"seg": phantom.seg, "enh": phantom.enhancement}).items():
            # Whole numbers, so integers without scaling are exact.
            stored = volume if name == "seg" else volume.with_array(volume.array.astype(np.int16))
            nifti.write(stored, unfinished / f"{phantom.case}_{name}.nii.gz", "simulated by dsdiff")
        text = json.dumps(phantom.parameters, indent=1, allow_nan=False)
        (unfinished / f"{phantom.case}_phantom.json").write_text(text + "\n", encoding="utf-8")
    return target
