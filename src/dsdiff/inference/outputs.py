"""The output folder of one case: its volumes, preview and provenance, all or nothing."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dsdiff import __version__
from dsdiff.errors import InputError
from dsdiff.inference.model import Model
from dsdiff.inference.options import FractionCallback, ignore_fraction
from dsdiff.inference.pipeline import Pipeline, SynthesisResult
from dsdiff.io import nifti
from dsdiff.io.cases import Case, file_hash, load_volumes
from dsdiff.preprocessing import normalize
from dsdiff.preprocessing.normalize import LoadedCase
from dsdiff.reporting import figures, preview
from dsdiff.system import atomic, output_checks
from dsdiff.system.unicode_names import to_file_name, to_unicode, to_unicode_values
from dsdiff.volume import Volume

PROVENANCE = "provenance.json"
DESCRIPTION = "synthetic T1ce by dsdiff, not acquired"
FILE_KIND = "synthetic contrast-enhanced T1-weighted MRI; no contrast agent was given"
OUTPUT_PATTERN = re.compile(r".*_desc-(synth|std)T1ce_T1w\.nii\.gz|preview\.png|comparison\.png|provenance\.json")


def synthesize_case(
    case: Case, out: Path, pipeline: Pipeline, progress: FractionCallback = ignore_fraction
) -> SynthesisResult:
    """Read, synthesize and write one case, replacing an earlier result of dsdiff.

    Args:
        case: The input files.
        out: Folder of the results; this one is written to `out/<case name>`.
        pipeline: Model and options.
        progress: Called with the fraction of slices that are done.

    Returns:
        The result that was written.

    Raises:
        OutputError: If the folder cannot be written or holds files that dsdiff did not write.
        UserError: If the case cannot be read or synthesized.
    """
    loaded = read_case(case, out, pipeline.model)
    result = pipeline.synthesize_loaded(loaded, progress)
    write_case(result, case, out, pipeline.model)
    return result


def is_finished(case: Case, out: Path, pipeline: Pipeline) -> bool:
    """Tell whether `out` holds the result of these input files, this model and these options.

    Args:
        case: The input files.
        out: Folder of the results.
        pipeline: Model and options.

    Returns:
        False if the result is missing, damaged or of other inputs, settings or versions.
    """
    model, plan, style = pipeline.model, pipeline.plan, pipeline.options.style
    try:
        provenance = json.loads((result_dir(case, out) / PROVENANCE).read_text(encoding="utf-8"))
        return all(
            (
                provenance["model"]["hash"] == model.hash,
                provenance["versions"]["dsdiff"] == __version__,
                {name: provenance.get(name) for name in asdict(plan)} == asdict(plan),
                provenance.get("style") == describe_style(model, style.label if style else None),
                model.engine_name == "auto" or provenance["engine"] == model.engine.label,
                {name: entry["sha256"] for name, entry in provenance["inputs"].items()} == _input_hashes(case, model),
                provenance["outputs"] == _output_hashes(case, out, pipeline),
            )
        )
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def result_dir(case: Case, out: Path) -> Path:
    """Return the folder of one case's result.

    Args:
        case: The input files.
        out: Folder of the results.

    Returns:
        `out/<case name>`.
    """
    return out / to_file_name(case.name)


def output_name(case: Case, kind: str) -> str:
    """Name the file of an output volume.

    Args:
        case: The input files.
        kind: "synth" for the T1ce or "std" for the uncertainty map.

    Returns:
        A BIDS-like file name.
    """
    return to_file_name(f"{case.name}_desc-{kind}T1ce_T1w.nii.gz")


def check_output_dir(target: Path) -> None:
    """Check that a result may replace a folder.

    Args:
        target: Folder of one case's result; it may be missing.

    Raises:
        OutputError: If the folder cannot be read or holds files that dsdiff did not write.
    """
    output_checks.check_replaceable(target, PROVENANCE, FILE_KIND, OUTPUT_PATTERN)


def read_case(case: Case, out: Path, model: Model) -> LoadedCase:
    """Read and preprocess a case after a check that its result may be written.

    Args:
        case: The input files.
        out: Folder of the results.
        model: Decides which contrasts are read.

    Returns:
        The network's input and its geometry with the hashes of the files.

    Raises:
        OutputError: If the result must not be written.
        UserError: If the case cannot be read.
    """
    check_output_dir(result_dir(case, out))
    hashes = _input_hashes(case, model)  # before the files are read: they may change before the result is written

    volumes = load_volumes(case, model.contrasts_to_read(case.contrasts))
    loaded = normalize.preprocess(volumes, model.config.data.source_contrast)
    return replace(loaded, geometry=replace(loaded.geometry, hashes=hashes))


def write_case(result: SynthesisResult, case: Case, out: Path, model: Model) -> None:
    """Write T1ce, uncertainty map, preview and provenance; the folder appears when it is complete.

    Args:
        result: What was synthesized.
        case: The input files.
        out: Folder of the results.
        model: The model that synthesized it.

    Raises:
        OutputError: If the folder cannot be written.
    """
    with atomic.atomic_dir(result_dir(case, out)) as folder:
        volumes = _output_volumes(result, model)

        with ThreadPoolExecutor(len(volumes)) as executor:  # volumes are compressed while the preview is plotted
            writes = []
            for kind, (volume, description) in volumes.items():
                writes.append(executor.submit(nifti.write_nifti, volume, folder / output_name(case, kind), description))
            figures.save_png(plot_preview(result, case.name, model), folder / "preview.png")
            for write in writes:
                write.result()

        provenance = build_provenance(result, case, model)
        provenance["outputs"] = {kind: file_hash(folder / output_name(case, kind)) for kind in volumes}
        (folder / PROVENANCE).write_text(json.dumps(to_unicode_values(provenance), indent=2) + "\n", encoding="utf-8")


def _output_volumes(result: SynthesisResult, model: Model) -> dict[str, tuple[Volume, str]]:
    """Kind of volume -> volume and the description in its header."""
    volumes = {"synth": (result.t1ce, DESCRIPTION)}
    if result.std is not None:
        meaning = "expected SD of error" if model.process.predict_error else "SD over samples"
        volumes["std"] = (result.std, f"{meaning}: {DESCRIPTION}")
    return volumes


def _input_hashes(case: Case, model: Model) -> dict[str, str]:
    """Contrast -> SHA-256 of the files that the model reads and the case has."""
    contrasts = [contrast for contrast in model.contrasts_to_read(case.files) if contrast in case.files]
    return {contrast: file_hash(case.files[contrast]) for contrast in contrasts}


def _output_hashes(case: Case, out: Path, pipeline: Pipeline) -> dict[str, str]:
    has_std = pipeline.model.process.predict_error or pipeline.plan.samples > 1
    kinds = ("synth", "std") if has_std else ("synth",)
    return {kind: file_hash(result_dir(case, out) / output_name(case, kind)) for kind in kinds}


def plot_preview(result: SynthesisResult, name: str, model: Model) -> Figure:
    """Plot the preview of a result: inputs, T1ce, enhancement map and uncertainty in three planes.

    Args:
        result: What was synthesized.
        name: Name of the case.
        model: The model that synthesized it.

    Returns:
        The figure.
    """
    case = result.case
    enhancement = (result.z - case.images[model.config.data.source_contrast]) * case.brain
    columns = {contrast: case.images[contrast] for contrast in model.contrasts if contrast in case.images}
    columns["synthetic T1ce"] = result.z
    overlays = {"enhancement": (result.z, enhancement)}
    images = preview.PreviewImages(columns, overlays, result.z_std, result.geometry.has_orientation)

    point = preview.select_point(enhancement, case)
    return preview.plot_preview(images, case, point, _preview_title(result, name, model), result.warnings)


def _preview_title(result: SynthesisResult, name: str, model: Model) -> str:
    title = f"{name}   model {model.name} {model.hash}"
    if absent := absent_contrasts(result, model):
        labels = [preview.CONTRAST_LABELS.get(contrast, contrast) for contrast in absent]
        title += f"   without {' and '.join(labels)}"
    if style := describe_style(model, result.style_label):
        title += f"   style: {style}"
    return title


def absent_contrasts(result: SynthesisResult, model: Model) -> list[str]:
    """List the contrasts of the model that the case does not have.

    Args:
        result: What was synthesized.
        model: The model that synthesized it.

    Returns:
        Names in the order of the model.
    """
    return [contrast for contrast in model.contrasts if contrast not in result.case.images]


def describe_style(model: Model, style_label: str | None) -> str | None:
    """Describe the style of a T1ce.

    Args:
        model: The model that synthesized it.
        style_label: `StyleReference.label` of the chosen case, or None.

    Returns:
        A phrase; None for a model without style conditioning.
    """
    if model.config.conditioning.style == "none":
        return None
    if style_label is not None:
        return f"of {style_label}"
    return "average" if model.metadata.style_retriever is None else "of the most similar training cases"


def build_provenance(result: SynthesisResult, case: Case, model: Model) -> dict[str, Any]:
    """Collect everything that is needed to reproduce a result, and its warnings. Holds no path and no date.

    Args:
        result: What was synthesized.
        case: The input files.
        model: The model that synthesized it.

    Returns:
        Values that JSON can hold.
    """
    return {
        "what": FILE_KIND,
        "use": "research use, not for diagnosis",
        "case": case.name,
        "model": {"name": model.name, "hash": model.hash},
        **asdict(result.plan),
        "device": str(model.device),
        "engine": model.engine.label,
        "precision": model.engine.precision,
        "threads": result.threads,
        "inputs": {
            contrast: {"file": to_unicode(case.files[contrast].name), "sha256": sha256}
            for contrast, sha256 in result.geometry.hashes.items()
        },
        "absent": absent_contrasts(result, model),
        "style": describe_style(model, result.style_label),
        "versions": {"dsdiff": __version__} | {name: version(name) for name in ("torch", "numpy", "nibabel")},
        "ood_scores": result.ood_scores,
        "warnings": list(result.warnings),
    }
