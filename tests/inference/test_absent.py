"""Cases that lack a contrast: synthesised where the model was trained for it, refused where not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import dsdiff
from dsdiff.conditioning import style_image
from dsdiff.config import run as configs
from dsdiff.data import batch_sampling as batches
from dsdiff.data.dataset import InMemory, Patient
from dsdiff.errors import CaseError, ConfigError
from dsdiff.inference import model as models
from dsdiff.inference import outputs as case_io
from dsdiff.inference.options import plan
from dsdiff.inference.pipeline import run
from dsdiff.inference.style_reference import Reference
from dsdiff.io import cases
from dsdiff.volume import Volume
from tests.toy_data import LPS, TINY, patient, wake, write_case

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    config = configs.parse({**TINY, "data": {**TINY["data"], "contrast_dropout": 0.3}}, "tiny")
    network = config.build_network().eval()
    wake(network)
    return models.Model("tiny", "0", config, network, config.build_process(), config.build_sampler(), CPU)


def arrays(*names):
    return {name: array for name, array in patient().items() if name in names}


def still(values, styles=None):
    """A patient of one voxel."""
    slices = InMemory(np.array([*values, 0.0], np.float16).reshape(-1, 1, 1, 1), np.ones((1, 1, 1), np.uint8))
    return replace(Patient.of("P", slices), styles=styles)


def test_withheld_contrasts_are_a_share_and_never_the_start():
    rng = np.random.default_rng(0)
    there = batches.draw([still((1.0, 1.0, 1.0))], 4000, (1, 1), 1, 0.0, rng, contrast_dropout=0.3).present
    assert there[:, 0].all()
    assert there[:, 1:].float().mean(0).tolist() == pytest.approx([0.7, 0.7], abs=0.03)
    assert (~there[:, 1:]).all(1).float().mean().item() == pytest.approx(0.09, abs=0.02)  # each by itself


def test_the_style_that_is_told_says_nothing_of_a_withheld_contrast():
    code = np.array([0.5, 0.3, -0.2, 0.1])
    batch = batches.draw(
        [still((1.0, 2.0, 4.0), (code, code))], 200, (1, 1), 1, 0.0, np.random.default_rng(0), contrast_dropout=0.5
    )
    told = (batch.present * torch.tensor([0.5, 0.6, -0.8])).sum(1) + 0.1
    assert torch.allclose(batch.styled.flatten(), told, atol=1e-6)
    assert len(batch.styled.unique()) == 4
    as_in_synthesis = style_image.image(torch.from_numpy(code), batch.sources, batch.present)
    assert torch.allclose(batch.styled, as_in_synthesis, atol=1e-6)


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
    case_io.synthesize_case(case, tmp_path / "out", model)
    facts = json.loads((tmp_path / "out" / "P01" / "provenance.json").read_text())
    assert facts["absent"] == ["flair"]
    assert set(facts["inputs"]) == {"t1", "t2"}
    assert case_io.is_finished(tmp_path / "out", case, model, plan(model))
    made = tmp_path / "out" / "P01" / "P01_desc-synthT1ce_T1w.nii.gz"
    whole_bytes = made.read_bytes()
    made.write_bytes(whole_bytes[:-9])
    assert not case_io.is_finished(tmp_path / "out", case, model, plan(model))
    made.write_bytes(whole_bytes)
    assert case_io.is_finished(tmp_path / "out", case, model, plan(model))
    write_case(tmp_path / "whole", "P01")
    (whole,) = cases.discover(tmp_path / "whole")
    assert not case_io.is_finished(tmp_path / "out", whole, model, plan(model))
    result = case_io.synthesize_case(whole, tmp_path / "other", model)
    assert case_io.absent(result, model) == []


def test_without_dropout_in_training_the_refusal_stands(model_folder, tmp_path):
    folder = write_case(tmp_path / "cohort", "P01")
    (folder / "P01_flair.nii.gz").unlink()
    (case,) = cases.discover(folder)
    with pytest.raises(CaseError, match="case P01 has no flair"):
        case_io.synthesize_case(case, tmp_path / "out", models.load(model_folder, CPU))
    with pytest.raises(CaseError, match="flair is missing"):
        dsdiff.synthesize(arrays("t1", "t2"), LPS, model=model_folder)


def test_the_preview_says_what_is_lacking(model, tmp_path):
    folder = write_case(tmp_path / "cohort", "P01")
    (folder / "P01_t2.nii.gz").unlink()
    (case,) = cases.discover(folder)
    result = case_io.synthesize_case(case, tmp_path / "out", model)
    figure = case_io.picture(result, "P01", model)
    said = [text.get_text() for text in figure.texts] + [axis.get_title() for axis in figure.axes]
    assert any("without T2" in text for text in said)
    assert "T2" not in said


def test_guidance_leads_away_from_what_t1_alone_would_give(model):
    made = {w: dsdiff.synthesize(arrays("t1", "t2", "flair"), LPS, model=model, guidance=w).z for w in (0.0, 1.0, 2.0)}
    alone = dsdiff.synthesize(arrays("t1"), LPS, model=model).z
    assert np.array_equal(made[1.0], dsdiff.synthesize(arrays("t1", "t2", "flair"), LPS, model=model).z)
    assert np.allclose(made[0.0], alone, atol=1e-6)
    assert np.allclose(made[2.0], 2 * made[1.0] - alone, atol=1e-5)
    assert not np.allclose(made[2.0], made[1.0], atol=1e-2)


def test_guidance_leads_away_from_t1_alone_in_the_style_that_is_told():
    asked = {**TINY, "data": {**TINY["data"], "contrast_dropout": 0.3}, "conditioning": {"style": "linear"}}
    config = configs.parse(asked, "tiny")
    network = config.build_network().eval()
    wake(network)
    told = models.Model("tiny", "0", config, network, config.build_process(), config.build_sampler(), CPU)
    it = Reference("it", np.array([0.5, 0.3, -0.2, 0.1]))
    volumes = {name: Volume(array, LPS) for name, array in arrays("t1", "t2", "flair").items()}
    unguided = run(volumes, told, plan(told, guidance=0.0), style=it)
    assert np.allclose(unguided.z, run({"t1": volumes["t1"]}, told, style=it).z, atol=1e-6)


def test_guidance_is_refused_where_the_network_knows_no_case_without_contrasts(model_folder, model):
    with pytest.raises(ConfigError, match=r"trained with data\.contrast_dropout above 0"):
        dsdiff.synthesize(arrays("t1", "t2", "flair"), LPS, model=model_folder, guidance=2.0)
    with pytest.raises(ConfigError, match="guidance is -1; it must be 0 or more"):
        plan(model, guidance=-1.0)
