"""A case that the model should not be trusted with gives warnings: in result, provenance, preview and exit summary."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dsdiff.cli.main import app
from dsdiff.inference.model import load_model
from dsdiff.inference.pipeline import Pipeline, SynthesisResult
from dsdiff.model import checkpoint
from dsdiff.model.metadata import ModelMetadata
from dsdiff.preprocessing import normalize
from dsdiff.qc import ood
from dsdiff.qc.features import measure_features
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, make_patient, write_case

CPU = torch.device("cpu")
CONTRASTS = ("t1", "t2", "flair")


def make_volumes(seed: int) -> dict[str, Volume]:
    return {name: Volume(array, LPS_AFFINE) for name, array in make_patient(seed).items() if name in CONTRASTS}


def synthesize(folder, volumes: dict[str, Volume]) -> SynthesisResult:
    return Pipeline(load_model(folder, CPU)).synthesize_volumes(volumes)


@pytest.fixture(scope="module")
def folder_with_detector(model_folder, tmp_path_factory):
    """The tiny model with an out-of-distribution detector, fitted on nine patients."""
    features = {f"P{seed}": measure_features(normalize.preprocess(make_volumes(seed)).case) for seed in range(9)}
    metadata = ModelMetadata(ood_detector=ood.fit_ood_detector(features))
    contents = checkpoint.read_model(model_folder)
    folder = tmp_path_factory.mktemp("models") / "detector"
    checkpoint.save_model(folder, contents.weights, contents.config, "# detector\n", metadata)
    return folder


def test_usual_case_has_low_ood_scores(folder_with_detector):
    scores = synthesize(folder_with_detector, make_volumes(3)).ood_scores
    assert set(scores) == {"shape", "contrast", "detail"}
    assert max(scores.values()) < 1


def test_exchanged_contrasts_give_a_warning(folder_with_detector):
    volumes = make_volumes(3)
    exchanged = {"t1": volumes["t1"], "t2": volumes["flair"], "flair": volumes["t2"]}
    warnings = synthesize(folder_with_detector, exchanged).warnings
    assert any("flair and t2 seem exchanged" in warning for warning in warnings)


def test_model_without_a_detector_has_no_ood_scores(model_folder):
    assert synthesize(model_folder, make_volumes(3)).ood_scores == {}


def test_warnings_are_in_provenance_and_exit_summary(folder_with_detector, tmp_path):
    write_case(tmp_path / "cases", "P1", 1)
    folder = write_case(tmp_path / "cases", "P2", 2)
    t2, flair = folder / "P2_t2.nii.gz", folder / "P2_flair.nii.gz"
    t2.rename(folder / "exchanged")
    flair.rename(t2)
    (folder / "exchanged").rename(flair)

    arguments = ["synth", tmp_path / "cases", "-o", tmp_path / "out", "--model", folder_with_detector]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0
    assert "2 of 2 cases" in done.stderr  # both brains are small
    assert "P1, P2" in done.stderr

    p1, p2 = (json.loads((tmp_path / "out" / name / "provenance.json").read_text()) for name in ("P1", "P2"))
    assert not any("exchanged" in warning for warning in p1["warnings"])
    assert any("exchanged" in warning for warning in p2["warnings"])
    assert p2["ood_scores"]["contrast"] > p1["ood_scores"]["contrast"]


def test_ood_scores_do_not_depend_on_intensity_units(folder_with_detector):
    volumes = make_volumes(4)
    scaled = {name: Volume(np.where(v.array > 0, 3 * v.array + 70, 0), v.affine) for name, v in volumes.items()}
    scores = synthesize(folder_with_detector, volumes).ood_scores
    assert synthesize(folder_with_detector, scaled).ood_scores == pytest.approx(scores, abs=0.02)
