"""Cases that lack a contrast: synthesised where the model was trained for it, refused where not."""

import json

import numpy as np
import pytest
import torch
from conftest import LPS, TINY, patient, wake, write_case

import dsdiff
from dsdiff import config as configs
from dsdiff.data import batch as batches
from dsdiff.data import cases
from dsdiff.errors import CaseError
from dsdiff.inference import case as case_io
from dsdiff.inference import model as models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    config = configs.parse({**TINY, "data": {**TINY["data"], "contrast_dropout": 0.3}}, "tiny")
    network = config.build_network().eval()
    wake(network)
    return models.Model("tiny", "0", config, network, config.build_process(), config.build_sampler(), CPU)


def arrays(*names):
    return {name: array for name, array in patient().items() if name in names}


def test_withheld_contrasts_are_a_share_and_never_the_start():
    batch = batches.Batch(
        torch.zeros(4000, 3, 1, 1, 1),
        torch.zeros(4000, 1, 1, 1),
        torch.zeros(4000, 1, 1, 1, dtype=torch.uint8),
        torch.ones(4000, 3, dtype=torch.bool),
    )
    there = batches.withheld(batch, 0.3, 0, torch.Generator().manual_seed(0)).present
    assert there[:, 0].all()
    assert there[:, 1:].float().mean(0).tolist() == pytest.approx([0.7, 0.7], abs=0.03)
    assert (~there[:, 1:]).all(1).float().mean().item() == pytest.approx(0.09, abs=0.02)  # each by itself


def test_whatever_stands_for_an_absent_contrast_does_not_matter(model):
    made = dsdiff.synthesize(arrays("t1", "flair"), LPS, model=model)
    assert np.isfinite(made.t1ce.array).all()
    assert not np.array_equal(made.z, dsdiff.synthesize(arrays("t1", "t2", "flair"), LPS, model=model).z)
    with pytest.raises(CaseError, match="the model needs t1, flair; t1 is missing"):
        dsdiff.synthesize(arrays("flair"), LPS, model=model)


def test_a_case_without_flair_says_so(model, tmp_path):
    folder = write_case(tmp_path / "cohort", "P01")
    (folder / "P01_flair.nii.gz").unlink()
    (case,) = cases.discover(folder)
    settings = {"steps": 1, "samples": 1, "seed": 0}
    case_io.synthesize_case(case, tmp_path / "out", model, **settings)
    facts = json.loads((tmp_path / "out" / "P01" / "provenance.json").read_text())
    assert facts["absent"] == ["flair"]
    assert set(facts["inputs"]) == {"t1", "t2"}
    assert case_io.is_finished(tmp_path / "out", case, model, 1, 1, 0)
    write_case(tmp_path / "whole", "P01")
    (whole,) = cases.discover(tmp_path / "whole")
    assert not case_io.is_finished(tmp_path / "out", whole, model, 1, 1, 0)
    result = case_io.synthesize_case(whole, tmp_path / "other", model, **settings)
    assert case_io.absent(result, model) == []


def test_without_dropout_in_training_the_refusal_stands(model_folder, tmp_path):
    folder = write_case(tmp_path / "cohort", "P01")
    (folder / "P01_flair.nii.gz").unlink()
    (case,) = cases.discover(folder)
    with pytest.raises(CaseError, match="case P01 has no flair"):
        case_io.synthesize_case(case, tmp_path / "out", models.load(model_folder, CPU), steps=1, samples=1, seed=0)
    with pytest.raises(CaseError, match="flair is missing"):
        dsdiff.synthesize(arrays("t1", "t2"), LPS, model=model_folder)


def test_the_preview_says_what_is_lacking(model, tmp_path):
    folder = write_case(tmp_path / "cohort", "P01")
    (folder / "P01_t2.nii.gz").unlink()
    (case,) = cases.discover(folder)
    result = case_io.synthesize_case(case, tmp_path / "out", model, steps=1, samples=1, seed=0)
    figure = case_io.picture(result, "P01", model)
    said = [text.get_text() for text in figure.texts] + [axis.get_title() for axis in figure.axes]
    assert any("without T2" in text for text in said)
    assert "T2" not in said
