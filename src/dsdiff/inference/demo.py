"""The demonstration: a bundled phantom patient, its synthetic T1ce and the true T1ce side by side on one page."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from dsdiff.errors import OutputError
from dsdiff.evaluation import brain_scores
from dsdiff.evaluation.regions import make_regions
from dsdiff.inference import outputs
from dsdiff.inference.model import DEFAULT_MODEL, Model, load_model
from dsdiff.inference.options import FractionCallback, ignore_fraction
from dsdiff.inference.pipeline import Pipeline, SynthesisResult
from dsdiff.io import nifti
from dsdiff.io.cases import Case, bundled_phantom, load_volumes
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import normalize
from dsdiff.reporting import figures, preview
from dsdiff.reporting.html_pages import render_page
from dsdiff.system import atomic

COMPARISON = "comparison.png"
ENHANCING_LABEL = 4  # of the phantom's segmentation
ENHANCING_Z = 6.0  # robust z-scores that the enhancing tumour counts as when the voxel to show is selected
SCORE_MEANINGS = {
    "auc_brain": "Is enhancement in the enhancing tumour and not elsewhere? 1 is perfect, 0.5 is chance.",
    "auc_tumour": "The same within the tumour: does the rim differ from core and edema?",
    "enhancement_recovery": "How much of the true enhancement is recovered? 1 is all of it, 0 none.",
    "psnr_fit": "Similarity of the brain in dB, after the best linear map of intensities. Mostly tissue contrast.",
    "ssim": "Structural similarity in the brain; 1 is identical.",
}


def run_demo(out: Path, progress: FractionCallback = ignore_fraction) -> Path:
    """Synthesize the bundled phantom and write a report.

    Args:
        out: Folder of the results and the report.
        progress: Called with the fraction of slices that are done.

    Returns:
        Path of the report, `out/report.html`.

    Raises:
        OutputError: If `out` holds a report that dsdiff did not write.
    """
    phantom = bundled_phantom()
    report, folder = out / "report.html", out / phantom.name
    if report.exists() and not (folder / outputs.PROVENANCE).is_file():
        raise OutputError(f"{report} exists and dsdiff demo did not write it; choose another folder")

    pipeline = Pipeline(load_model(DEFAULT_MODEL, torch.device("cpu")))
    result = outputs.synthesize_case(phantom, out, pipeline, progress)

    with atomic.atomic_file(folder / COMPARISON) as tmp_path:
        figures.save_png(plot_comparison(result, phantom, pipeline.model), tmp_path)
    atomic.atomic_write_text(report, render_html(result, phantom, pipeline.model, folder))
    return report


def plot_comparison(result: SynthesisResult, phantom: Case, model: Model) -> Figure:
    """Plot the inputs, and the synthetic beside the true T1ce and enhancement, at the true enhancement.

    Args:
        result: What was synthesized.
        phantom: The files of the phantom, true T1ce and segmentation included.
        model: The model that synthesized it.

    Returns:
        The figure.
    """
    case, t1 = result.case, result.case.images["t1"]
    true_t1ce = normalize.preprocess(load_volumes(phantom, ("t1", "t1ce"))).case.images["t1ce"]

    columns = {contrast: case.images[contrast] for contrast in model.contrasts}
    columns |= {"synthetic T1ce": result.z, "true T1ce": true_t1ce}
    overlays = {
        "synthetic enhancement": (result.z, result.z - t1),
        "true enhancement": (true_t1ce, true_t1ce - t1),
    }
    images = preview.PreviewImages(columns, overlays, has_orientation=result.geometry.has_orientation)

    enhancing = read_segmentation(phantom)[result.geometry.box] == ENHANCING_LABEL
    point = preview.select_point(np.where(enhancing, ENHANCING_Z, 0.0), case)
    return preview.plot_preview(images, case, point, f"{phantom.name} (simulated patient)")


def read_segmentation(case: Case) -> np.ndarray:
    """Read the segmentation of a case.

    Args:
        case: The files, a segmentation included.

    Returns:
        (X, Y, Z) labels on RAS+ axes.
    """
    return to_canonical(nifti.read_nifti(case.files["seg"])).array


def render_html(result: SynthesisResult, phantom: Case, model: Model, folder: Path) -> str:
    """Render the report.

    Args:
        result: What was synthesized.
        phantom: The files of the phantom, true T1ce and segmentation included.
        model: The model that synthesized it.
        folder: Folder of the result with `COMPARISON`.

    Returns:
        One self-contained HTML page.
    """
    volumes = load_volumes(phantom, ("t1", "t1ce"))
    t1, true_t1ce = (to_canonical(volumes[contrast]).array for contrast in ("t1", "t1ce"))
    synthetic = result.geometry.uncrop(result.z)
    regions = make_regions(result.geometry.uncrop(result.case.brain), read_segmentation(phantom))

    rows = {
        "dsdiff": brain_scores.score_brain(synthetic, true_t1ce, t1, regions),
        "copy of T1": brain_scores.score_brain(t1, true_t1ce, t1, regions),
    }
    return render_page(
        "demo.html",
        case=phantom.name,
        model=model,
        image=figures.png_data_uri((folder / COMPARISON).read_bytes()),
        rows=rows,
        meanings=SCORE_MEANINGS,
        files=sorted(path.name for path in folder.iterdir()),
        warnings=result.warnings,
    )
