"""The demonstration: a bundled phantom patient, its synthetic T1ce, and its true answer beside it on one page."""

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, select_autoescape

from dsdiff.errors import OutputError
from dsdiff.evaluation import brain_scores
from dsdiff.evaluation.regions import regions
from dsdiff.inference import model as models
from dsdiff.inference import outputs as case_io
from dsdiff.inference.model import Model
from dsdiff.inference.pipeline import Result
from dsdiff.io import cases, nifti
from dsdiff.io.cases import Case
from dsdiff.preprocessing import normalize
from dsdiff.reporting import preview
from dsdiff.system import atomic
from dsdiff.volume import to_canonical

MEANINGS = {
    "auc_brain": "Does enhancement lie in the tumour that enhances, not elsewhere? 1 is perfect, 0.5 is chance.",
    "auc_tumour": "The same inside the tumour: is the rim told from the core and the oedema?",
    "gain": "How much of the true enhancement is there? 1 is all of it, 0 none.",
    "psnr_fit": "Likeness of the whole brain in dB, after the best linear map of intensities. Mostly tissue contrast.",
    "ssim": "Likeness of structure in the brain; 1 is identical.",
}


def run(out: Path, progress: Callable[[float], None] = lambda share: None) -> Path:
    """Synthesise the bundled phantom into `out` and write `out/report.html`; returns the report's path."""
    phantom = cases.bundled()
    report = out / "report.html"
    if report.exists() and not (out / phantom.name / case_io.PROVENANCE).is_file():
        raise OutputError(f"{report} is not by this command; it is left alone (choose another place)")
    model = models.load(models.DEFAULT, torch.device("cpu"))
    result = case_io.synthesize_case(phantom, out, model, progress=progress)
    with atomic.whole_file(out / phantom.name / "comparison.png") as beside:
        preview.save(comparison(result, phantom, model), beside)
    atomic.write_whole(report, page(result, phantom, model, out / phantom.name))
    return report


def comparison(result: Result, phantom: Case, model: Model) -> preview.Figure:
    """Inputs, synthetic and true T1ce, synthetic and true enhancement, at the true enhancement."""
    prepared = result.prepared
    truth = normalize.apply(cases.load(phantom, ("t1", "t1ce"))).images
    made, true = result.z - prepared.images["t1"], truth["t1ce"] - prepared.images["t1"]
    columns = {
        **{c: prepared.images[c] for c in model.contrasts},
        "synthetic T1ce": result.z,
        "true T1ce": truth["t1ce"],
    }
    overlays = {"synthetic enhancement": (result.z, made), "true enhancement": (truth["t1ce"], true)}
    point = preview.show_point(np.where(labels(phantom)[prepared.box] == 4, 6.0, 0.0), prepared)
    return preview.draw(columns, overlays, prepared, point, f"{phantom.name} (simulated patient)")


def labels(case: Case) -> np.ndarray:
    """The segmentation of a case on the network's axes."""
    return to_canonical(nifti.read(case.files["seg"])).array


def page(result: Result, phantom: Case, model: Model, folder: Path) -> str:
    """The report as one self-contained HTML page."""
    truth = {name: to_canonical(v).array for name, v in cases.load(phantom, ("t1", "t1ce")).items()}
    whole = result.prepared.whole
    where = regions(whole(result.prepared.brain), labels(phantom))
    rows = {
        "dsdiff": brain_scores.score(whole(result.z), truth["t1ce"], truth["t1"], where),
        "copy of T1": brain_scores.score(truth["t1"], truth["t1ce"], truth["t1"], where),
    }
    environment = Environment(loader=PackageLoader("dsdiff", "assets"), autoescape=select_autoescape())
    image = base64.b64encode((folder / "comparison.png").read_bytes()).decode()
    return environment.get_template("report.html").render(
        case=phantom.name,
        model=model,
        image=image,
        rows=rows,
        meanings=MEANINGS,
        files=sorted(path.name for path in folder.iterdir()),
        warnings=result.warnings,
    )
