"""Files of phantoms: which phantoms a folder holds, and how one is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from dsdiff.errors import OutputError
from dsdiff.io import nifti
from dsdiff.phantom.simulate import GENERATION, Phantom, case_name
from dsdiff.system import atomic


def phantom_exists(folder: Path, seed: int, target_style: str, noise: float) -> bool:
    """Check whether a folder holds the patient of a seed, simulated with the same settings.

    Args:
        folder: Folder of cases.
        seed: Seed of the patient.
        target_style: See `simulate_phantom`.
        noise: See `simulate_phantom`.

    Returns:
        False if nothing has the name of this patient.

    Raises:
        OutputError: The folder holds this patient with other settings or of an older dsdiff, or something else has
            its name.
    """
    target = folder / case_name(seed)
    if not target.exists():
        return False
    recorded = _read_settings(target)
    requested = {"target_style": target_style, "noise": noise, "generation": GENERATION}
    if recorded != requested:
        raise OutputError(f"{target} was simulated with {recorded}, not {requested}; choose another folder or seed")
    return True


def check_generation(folder: Path) -> None:
    """Check that no phantom in a folder is of an older dsdiff, whose tissues differ (ADR 14).

    Args:
        folder: Folder of cases. It need not exist.

    Raises:
        OutputError: A phantom is of another generation.
    """
    for file in sorted(folder.glob("*/phantom-*_phantom.json")):
        generation = _read_settings(file.parent)["generation"]
        if generation != GENERATION:
            raise OutputError(
                f"{file.parent} was simulated by another version of dsdiff (phantom generation {generation}, now "
                f"{GENERATION}); choose another folder"
            )


def _read_settings(target: Path) -> dict[str, Any]:
    """Read the settings with which the phantom in a case folder was simulated."""
    try:
        parameters = json.loads((target / f"{target.name}_phantom.json").read_text(encoding="utf-8"))
        return {
            "target_style": parameters["target_style"],
            "noise": parameters["noise"],
            "generation": parameters.get("generation", 1),
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{target} exists and is not a phantom; choose another folder") from error


def write_phantom(phantom: Phantom, folder: Path) -> Path:
    """Write a phantom as a case folder: all of its files or none (see `atomic.atomic_dir`).

    The files are <case>_{t1,t1ce,t2,flair,seg,enh}.nii.gz and <case>_phantom.json.

    Args:
        phantom: The phantom.
        folder: Folder of cases in which the case folder appears.

    Returns:
        The case folder.

    Raises:
        OutputError: The case folder exists, or cannot be written.
    """
    target = Path(folder) / phantom.case
    if target.exists():
        raise OutputError(f"{target} exists already; remove it, or choose another seed or folder")

    images = phantom.volumes | {"seg": phantom.seg, "enh": phantom.enhancement}
    with atomic.atomic_dir(target) as unfinished:
        for name, volume in images.items():
            # Intensities are whole numbers, so integers without scaling are exact.
            integers = volume if name == "seg" else volume.with_array(volume.array.astype(np.int16))
            nifti.write_nifti(integers, unfinished / f"{phantom.case}_{name}.nii.gz", "simulated by dsdiff")
        text = json.dumps(phantom.parameters, indent=1, allow_nan=False)
        (unfinished / f"{phantom.case}_phantom.json").write_text(text + "\n", encoding="utf-8")
    return target
