"""One case to its output folder: everything or nothing."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dsdiff import __version__
from dsdiff.errors import InputError
from dsdiff.inference.model import Model
from dsdiff.inference.options import Sampling
from dsdiff.inference.pipeline import Result, complete
from dsdiff.inference.style_reference import Reference
from dsdiff.io import cases, nifti
from dsdiff.io.cases import Case
from dsdiff.preprocessing import normalize
from dsdiff.preprocessing.normalize import Prepared
from dsdiff.reporting import preview
from dsdiff.system import atomic

PROVENANCE = "provenance.json"
DESCRIPTION = "synthetic T1ce by dsdiff, not acquired"
WHAT = "synthetic contrast-enhanced T1-weighted MRI; no contrast agent was given"
OURS = re.compile(r".*_desc-(synth|std)T1ce_T1w\.nii\.gz|preview\.png|comparison\.png|provenance\.json")


def is_finished(out: Path, case: Case, model: Model, sampling: Sampling, style: Reference | None = None) -> bool:
    """Whether the result of these inputs, this model and these settings stands in `out`."""
    try:
        found = json.loads((out / case.name / PROVENANCE).read_text(encoding="utf-8"))
        told = ("synth", "std") if model.process.predict_error or sampling.samples > 1 else ("synth",)
        written = {what: cases.file_hash(out / case.name / file_of(case, what)) for what in told}
        made = (found["model"]["hash"], found["versions"]["dsdiff"])
        same_sampling = {name: found.get(name) for name in asdict(sampling)} == asdict(sampling)
        same_style = found.get("style") == described(model, style.says if style else None)
        same_inputs = {name: entry["sha256"] for name, entry in found["inputs"].items()} == _hashes(case, model)
        same_engine = model.computed_by == "auto" or found["engine"] == model.engine.says
        whole = found["outputs"] == written and made == (model.hash, __version__)
        return whole and same_sampling and same_style and same_inputs and same_engine
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def file_of(case: Case, what: str) -> str:
    """Name of a volume that is written: synth or std."""
    return f"{case.name}_desc-{what}T1ce_T1w.nii.gz"


def synthesize_case(
    case: Case,
    out: Path,
    model: Model,
    sampling: Sampling | None = None,
    *,
    style: Reference | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Result:
    """Read, synthesise and write one case into `out/<case name>`, replacing an earlier result of dsdiff.

    Raises what reading raises, and `OutputError` where the folder cannot be written or holds something else.
    """
    prepared = read(case, out, model)
    result = complete(prepared, model, sampling, style=style, progress=progress)
    return write(result, case, out, model)


def read(case: Case, out: Path, model: Model) -> Prepared:
    """A case as the network sees it, once it is clear that its place in `out` may be written."""
    check_place(out / case.name)
    hashes = _hashes(case, model)  # before they are read: files may be others by the time the result is written
    prepared = normalize.apply(cases.load(case, model.wanted(case.named)), model.config.data.source_contrast)
    return replace(prepared, hashes=hashes)


def _hashes(case: Case, model: Model) -> dict[str, str]:
    """Of the files that the model takes of a case, those that are there."""
    return {name: cases.file_hash(case.files[name]) for name in model.wanted(case.files) if name in case.files}


def check_place(target: Path) -> None:
    """Raise `OutputError` where the target cannot be looked at, or holds anything that dsdiff did not write."""
    atomic.refuse_foreign(target, PROVENANCE, WHAT, OURS)


def write(result: Result, case: Case, out: Path, model: Model) -> Result:
    """T1ce, its spread, the preview and the provenance of a result, which is handed back: everything or nothing."""
    with atomic.whole(out / case.name) as folder:
        _write(result, case, folder, model)
    return result


def _write(result: Result, case: Case, folder: Path, model: Model) -> None:
    volumes = [(result.t1ce, "synth", DESCRIPTION)]
    if result.std is not None:
        of = "expected SD of error" if model.process.predict_error else "SD over samples"
        volumes.append((result.std, "std", f"{of}: {DESCRIPTION}"))
    with ThreadPoolExecutor(len(volumes)) as files:  # packed while the picture is drawn
        packed = [
            files.submit(nifti.write, volume, folder / file_of(case, what), description)
            for volume, what, description in volumes
        ]
        preview.save(picture(result, case.name, model), folder / "preview.png")
        for volume in packed:
            volume.result()
    facts = provenance(result, case, model)
    facts["outputs"] = {what: cases.file_hash(folder / file_of(case, what)) for _, what, _ in volumes}
    (folder / PROVENANCE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def picture(result: Result, name: str, model: Model) -> Any:
    """The preview of a result: its inputs, T1ce, enhancement map and uncertainty in three planes."""
    prepared, start = result.prepared, model.config.data.source_contrast
    enhancement = (result.z - prepared.images[start]) * prepared.brain
    columns = {**{c: prepared.images[c] for c in model.contrasts if c in prepared.images}, "synthetic T1ce": result.z}
    point = preview.show_point(enhancement, prepared)
    overlay = {"enhancement": (result.z, enhancement)}
    title = f"{name}   model {model.name} {model.hash}"
    if lacking := absent(result, model):
        title += f"   without {' and '.join(preview.LABELS.get(c, c) for c in lacking)}"
    if style := described(model, result.style):
        title += f"   style: {style}"
    return preview.draw(columns, overlay, prepared, point, title, result.z_std, result.warnings)


def absent(result: Result, model: Model) -> list[str]:
    """The contrasts that the case did not have."""
    return [contrast for contrast in model.contrasts if contrast not in result.prepared.images]


def described(model: Model, reference: str | None) -> str | None:
    """The style of a T1ce in words, None for a model that is told none."""
    if model.config.conditioning.style == "none":
        return None
    if reference is not None:
        return f"of {reference}"
    return "average" if model.nearest is None else "of the training cases most like it"


def provenance(result: Result, case: Case, model: Model) -> dict[str, Any]:
    """Everything needed to make the result again, and what to doubt about it. Holds no path and no date."""
    return {
        "what": WHAT,
        "use": "research use, not for diagnosis",
        "case": case.name,
        "model": {"name": model.name, "hash": model.hash},
        **asdict(result.sampling),
        "device": str(model.device),
        "engine": model.engine.says,
        "precision": model.engine.precision,
        "threads": result.threads,
        "inputs": {
            contrast: {"file": case.files[contrast].name, "sha256": sha256}
            for contrast, sha256 in result.prepared.hashes.items()
        },
        "absent": absent(result, model),
        "style": described(model, result.style),
        "versions": {"dsdiff": __version__} | {name: version(name) for name in ("torch", "numpy", "nibabel")},
        "unlike_training": result.unlike,
        "warnings": list(result.warnings),
    }
