"""One case to its output folder: everything or nothing."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dsdiff import __version__
from dsdiff.data import cases, nifti
from dsdiff.data.cases import Case
from dsdiff.errors import OutputError
from dsdiff.inference import preview
from dsdiff.inference.model import Model
from dsdiff.inference.synthesize import Result, run

PROVENANCE = "provenance.json"
DESCRIPTION = "synthetic T1ce by dsdiff, not acquired"


def is_finished(out: Path, case: Case) -> bool:
    """Whether this case's output stands in `out` (outputs appear whole or not at all)."""
    return (out / case.name / PROVENANCE).is_file()


def synthesize_case(
    case: Case,
    out: Path,
    model: Model,
    *,
    steps: int | None,
    samples: int,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Result:
    """Read, synthesise and write one case into `out/<case name>`, replacing an earlier result of dsdiff.

    Raises what reading raises, and `OutputError` where the folder cannot be written or holds something else.
    """
    volumes = cases.load(case, model.contrasts)
    with output_folder(out / case.name) as folder:
        result = run(volumes, model, steps=steps, samples=samples, seed=seed, progress=progress)
        write(result, case, folder, model)
    return result


def check_place(target: Path) -> None:
    """Raise `OutputError` where the target holds something that dsdiff did not write."""
    if target.exists() and not (target / PROVENANCE).is_file():
        raise OutputError(f"{target} exists and is not an output of dsdiff; it is left alone (choose another -o)")


@contextmanager
def output_folder(target: Path) -> Iterator[Path]:
    """A new folder beside the target that takes the target's place when all went well, and vanishes otherwise.

    Raises `OutputError` where that cannot be, or where the target holds something that dsdiff did not write.
    """
    check_place(target)
    missing = [place for place in target.parents if not place.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target.parent} cannot be written: {error.strerror or error}") from error
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        _exchange(folder, target)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        for place in missing:  # what was made on the way, deepest first; kept where others wrote meanwhile
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
        if isinstance(error, OSError):
            raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
        raise


def _exchange(folder: Path, target: Path) -> None:
    """Put `folder` in the place of `target`."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        target.rename(old / "old")
        folder.rename(target)
        shutil.rmtree(old)
    else:
        folder.rename(target)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write(result: Result, case: Case, folder: Path, model: Model) -> None:
    """T1ce, its spread, the preview and the provenance of a result."""
    nifti.write(result.t1ce, folder / f"{case.name}_desc-synthT1ce_T1w.nii.gz", DESCRIPTION)
    if result.std is not None:
        nifti.write(result.std, folder / f"{case.name}_desc-stdT1ce_T1w.nii.gz", f"SD over samples: {DESCRIPTION}")
    preview.save(picture(result, case.name, model), folder / "preview.png")
    facts = provenance(result, case, model)
    (folder / PROVENANCE).write_text(json.dumps(facts, indent=2) + "\n")


def picture(result: Result, name: str, model: Model) -> Any:
    """The preview of a result: its inputs, T1ce, enhancement map and uncertainty in three planes."""
    prepared, start = result.prepared, model.config.data.start
    enhancement = np.where(prepared.brain, result.z - prepared.images[start], 0)
    columns = {**{c: prepared.images[c] for c in model.contrasts}, "synthetic T1ce": result.z}
    point = preview.show_point(enhancement, prepared.brain)
    overlay = {"enhancement": (result.z, enhancement)}
    title = f"{name}   model {model.name} {model.hash}"
    return preview.draw(columns, overlay, prepared, point, title, result.z_std)


def provenance(result: Result, case: Case, model: Model) -> dict[str, Any]:
    """Everything needed to make the result again, and what to doubt about it. Holds no path and no date."""
    return {
        "what": "synthetic contrast-enhanced T1-weighted MRI; no contrast agent was given",
        "use": "research use, not for diagnosis",
        "case": case.name,
        "model": {"name": model.name, "hash": model.hash},
        "seed": result.seed,
        "steps": result.steps,
        "samples": result.samples,
        "device": str(model.device),
        "inputs": {
            contrast: {"file": case.files[contrast].name, "sha256": file_hash(case.files[contrast])}
            for contrast in model.contrasts
        },
        "versions": {"dsdiff": __version__} | {name: version(name) for name in ("torch", "numpy", "nibabel")},
        "warnings": list(result.warnings),
    }


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
