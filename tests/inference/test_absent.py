"""Cases without a contrast: synthesized if the model was trained with contrast dropout, else refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import dsdiff
from dsdiff.conditioning.style_image import render_slice_style
from dsdiff.config.run import parse_config
from dsdiff.data.batch_sampling import sample_batch
from dsdiff.data.dataset import InMemorySlices, StyleCodes, TrainingPatient
from dsdiff.data.settings import DataConfig
from dsdiff.errors import CaseError, ConfigError
from dsdiff.inference.model import Model, load_model
from dsdiff.inference.options import SynthesisOptions, plan_sampling
from dsdiff.inference.outputs import absent_contrasts, is_finished, plot_preview, synthesize_case
from dsdiff.inference.pipeline import Pipeline
from dsdiff.inference.style_reference import StyleReference
from dsdiff.io.cases import Case, discover_cases
from dsdiff.style.regression import StyleCode
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, TINY_CONFIG, make_patient, randomize_zeros, write_case

CPU = torch.device("cpu")
ONE_VOXEL = {"crop": (1, 1), "context_slices": 1, "lesion_fraction": 0.0}
CODE = StyleCode("linear", np.array([0.5, 0.3, -0.2, 0.1]))


def make_model(**config_parts: dict) -> Model:
    data = {**TINY_CONFIG["data"], "contrast_dropout": 0.3}
    config = parse_config({**TINY_CONFIG, "data": data, **config_parts}, "tiny")
    network = config.build_network().eval()
    randomize_zeros(network)
    return Model("tiny", "0", config, network, config.build_process(), config.build_sampler(), CPU)


@pytest.fixture(scope="module")
def model() -> Model:
    """A model that was trained with contrast dropout."""
    return make_model()


def make_arrays(*contrasts: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in make_patient().items() if name in contrasts}


def write_incomplete_case(folder: Path, absent: str) -> Case:
    case_folder = write_case(folder, "P01")
    (case_folder / f"P01_{absent}.nii.gz").unlink()
    (case,) = discover_cases(case_folder)
    return case


def make_one_voxel_patient(values: tuple[float, ...], style_codes: StyleCodes | None = None) -> TrainingPatient:
    images = np.array([*values, 0.0], np.float16).reshape(-1, 1, 1, 1)
    slices = InMemorySlices(images, np.ones((1, 1, 1), np.uint8))
    return replace(TrainingPatient.from_slices("P", slices), style_codes=style_codes)


def test_dropout_withholds_a_fraction_of_contrasts_and_never_the_source_contrast():
    config = DataConfig(**ONE_VOXEL, contrast_dropout=0.3)
    patients = [make_one_voxel_patient((1.0, 1.0, 1.0))]
    present = sample_batch(patients, 4000, config, np.random.default_rng(0)).present
    assert present[:, 0].all()
    assert present[:, 1:].float().mean(0).tolist() == pytest.approx([0.7, 0.7], abs=0.03)
    all_withheld = (~present[:, 1:]).all(1).float().mean().item()
    assert all_withheld == pytest.approx(0.09, abs=0.02)  # contrasts are withheld independently


def test_style_image_does_not_use_a_withheld_contrast():
    config = DataConfig(**ONE_VOXEL, contrast_dropout=0.5)
    patients = [make_one_voxel_patient((1.0, 2.0, 4.0), StyleCodes(CODE, CODE))]
    batch = sample_batch(patients, 200, config, np.random.default_rng(0))

    expected = (batch.present * torch.tensor([0.5, 0.6, -0.8])).sum(1) + 0.1
    assert torch.allclose(batch.style_image.flatten(), expected, atol=1e-6)
    assert len(batch.style_image.unique()) == 4
    weights = torch.from_numpy(CODE.weights)
    in_synthesis = render_slice_style(weights, CODE.kind, batch.sources, batch.present)
    assert torch.allclose(batch.style_image, in_synthesis, atol=1e-6)


def test_case_without_t2_is_synthesized(model):
    result = dsdiff.synthesize(make_arrays("t1", "flair"), LPS_AFFINE, model=model)
    assert np.isfinite(result.t1ce.array).all()
    complete = dsdiff.synthesize(make_arrays("t1", "t2", "flair"), LPS_AFFINE, model=model)
    assert not np.array_equal(result.z, complete.z)


def test_case_without_t1_is_refused(model):
    with pytest.raises(CaseError, match="the model needs t1, flair; t1 is missing"):
        dsdiff.synthesize(make_arrays("flair"), LPS_AFFINE, model=model)


def test_provenance_lists_the_absent_contrast(model, tmp_path):
    case = write_incomplete_case(tmp_path / "cases", absent="flair")
    synthesize_case(case, tmp_path / "out", Pipeline(model))
    provenance = json.loads((tmp_path / "out" / "P01" / "provenance.json").read_text())
    assert provenance["absent"] == ["flair"]
    assert set(provenance["inputs"]) == {"t1", "t2"}


def test_result_is_finished_only_if_complete_and_of_the_same_inputs(model, tmp_path):
    case, out, pipeline = write_incomplete_case(tmp_path / "cases", absent="flair"), tmp_path / "out", Pipeline(model)
    synthesize_case(case, out, pipeline)
    assert is_finished(case, out, pipeline)

    t1ce = out / "P01" / "P01_desc-synthT1ce_T1w.nii.gz"
    content = t1ce.read_bytes()
    t1ce.write_bytes(content[:-9])
    assert not is_finished(case, out, pipeline)
    t1ce.write_bytes(content)
    assert is_finished(case, out, pipeline)

    write_case(tmp_path / "complete", "P01")
    (complete_case,) = discover_cases(tmp_path / "complete")
    assert not is_finished(complete_case, out, pipeline)
    result = synthesize_case(complete_case, tmp_path / "complete_out", pipeline)
    assert absent_contrasts(result, model) == []


def test_model_without_contrast_dropout_refuses_an_incomplete_case(model_folder, tmp_path):
    case = write_incomplete_case(tmp_path / "cases", absent="flair")
    pipeline = Pipeline(load_model(model_folder, CPU))
    with pytest.raises(CaseError, match="case P01 has no flair"):
        synthesize_case(case, tmp_path / "out", pipeline)
    with pytest.raises(CaseError, match="flair is missing"):
        dsdiff.synthesize(make_arrays("t1", "t2"), LPS_AFFINE, model=model_folder)


def test_preview_names_the_absent_contrast(model, tmp_path):
    case = write_incomplete_case(tmp_path / "cases", absent="t2")
    result = synthesize_case(case, tmp_path / "out", Pipeline(model))
    figure = plot_preview(result, "P01", model)
    assert any("without T2" in text.get_text() for text in figure.texts)
    assert "T2" not in [axis.get_title() for axis in figure.axes]


def test_guidance_extrapolates_from_the_output_for_t1_alone(model):
    arrays = make_arrays("t1", "t2", "flair")
    guided = {w: dsdiff.synthesize(arrays, LPS_AFFINE, model=model, guidance=w).z for w in (0.0, 1.0, 2.0)}
    t1_only = dsdiff.synthesize(make_arrays("t1"), LPS_AFFINE, model=model).z
    assert np.array_equal(guided[1.0], dsdiff.synthesize(arrays, LPS_AFFINE, model=model).z)
    assert np.allclose(guided[0.0], t1_only, atol=1e-6)
    assert np.allclose(guided[2.0], 2 * guided[1.0] - t1_only, atol=1e-5)
    assert not np.allclose(guided[2.0], guided[1.0], atol=1e-2)


def test_guidance_keeps_the_style_for_t1_alone():
    model, style = make_model(conditioning={"style": "linear"}), StyleReference("P02", CODE)
    volumes = {name: Volume(array, LPS_AFFINE) for name, array in make_arrays("t1", "t2", "flair").items()}
    unguided = Pipeline(model, SynthesisOptions(guidance=0.0, style=style)).synthesize_volumes(volumes)
    t1_only = Pipeline(model, SynthesisOptions(style=style)).synthesize_volumes({"t1": volumes["t1"]})
    assert np.allclose(unguided.z, t1_only.z, atol=1e-6)


def test_guidance_is_refused_without_contrast_dropout(model_folder):
    with pytest.raises(ConfigError, match=r"trained with data\.contrast_dropout above 0"):
        dsdiff.synthesize(make_arrays("t1", "t2", "flair"), LPS_AFFINE, model=model_folder, guidance=2.0)


def test_negative_guidance_is_refused(model):
    with pytest.raises(ConfigError, match="guidance is -1; it must be 0 or more"):
        plan_sampling(model, SynthesisOptions(guidance=-1.0))
