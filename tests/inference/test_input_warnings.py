"""A case that the model should not be trusted with says so: in the result, provenance, preview and exit summary."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dsdiff.cli.main import app
from dsdiff.inference import model as models
from dsdiff.inference.pipeline import run
from dsdiff.model import checkpoint
from dsdiff.preprocessing import normalize
from dsdiff.qc import ood
from dsdiff.volume import Volume
from tests.toy_data import LPS, patient, write_case

CPU = torch.device("cpu")
SOURCES = ("t1", "t2", "flair")


def volumes(seed: int) -> dict[str, Volume]:
    return {name: Volume(array, LPS) for name, array in patient(seed).items() if name in SOURCES}


@pytest.fixture(scope="module")
def folder(model_folder, tmp_path_factory):
    """The tiny model, with what nine patients are like."""
    known = ood.learn({f"P{seed}": ood.measure(normalize.apply(volumes(seed))) for seed in range(9)})
    held = checkpoint.read(model_folder)
    made = tmp_path_factory.mktemp("models") / "knows"
    checkpoint.save(made, held.weights, held.config, "# knows\n", {"familiar": known.dump()})
    return made


def test_a_familiar_case_has_low_scores_and_an_exchanged_one_a_doubt(folder):
    model = models.load(folder, CPU)
    plain = run(volumes(3), model)
    assert set(plain.unlike) == {"shape", "contrast", "detail"} and max(plain.unlike.values()) < 1
    given = volumes(3)
    exchanged = run({"t1": given["t1"], "t2": given["flair"], "flair": given["t2"]}, model)
    assert any("flair and t2 seem exchanged" in doubt for doubt in exchanged.warnings)


def test_a_model_that_does_not_know_has_no_scores(model_folder):
    assert run(volumes(3), models.load(model_folder, CPU)).unlike == {}


def test_doubts_stand_in_provenance_and_exit_summary(folder, tmp_path):
    cohort = tmp_path / "cohort"
    write_case(cohort, "P1", 1)
    odd = write_case(cohort, "P2", 2)
    files = {name: odd / f"P2_{name}.nii.gz" for name in ("t2", "flair")}
    files["t2"].rename(odd / "kept")
    files["flair"].rename(files["t2"])
    (odd / "kept").rename(files["flair"])
    done = CliRunner().invoke(app, ["synth", str(cohort), "-o", str(tmp_path / "out"), "--model", str(folder)])
    assert done.exit_code == 0
    assert "2 of 2 cases come with doubts: P1, P2" in done.stderr  # both brains are small
    facts = {name: json.loads((tmp_path / "out" / name / "provenance.json").read_text()) for name in ("P1", "P2")}
    assert facts["P1"]["warnings"] == [w for w in facts["P1"]["warnings"] if "exchanged" not in w]
    assert any("exchanged" in warning for warning in facts["P2"]["warnings"])
    assert facts["P2"]["unlike_training"]["contrast"] > facts["P1"]["unlike_training"]["contrast"]


def test_scores_do_not_depend_on_intensities(folder):
    model = models.load(folder, CPU)
    given = volumes(4)
    brighter = {name: Volume(np.where(v.array > 0, 3 * v.array + 70, 0), v.affine) for name, v in given.items()}
    assert run(brighter, model).unlike == pytest.approx(run(given, model).unlike, abs=0.02)
