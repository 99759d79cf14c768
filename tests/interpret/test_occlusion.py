from dataclasses import replace

import numpy as np
import pytest
import torch

from dsdiff.config.run import parse_config
from dsdiff.inference.model import Model
from dsdiff.inference.options import SynthesisOptions
from dsdiff.inference.pipeline import Pipeline
from dsdiff.inference.style_reference import StyleReference
from dsdiff.interpret import occlusion, occlusion_figure
from dsdiff.model.metadata import ModelMetadata
from dsdiff.preprocessing import normalize
from dsdiff.preprocessing.normalize import LoadedCase
from dsdiff.style.regression import StyleCode
from dsdiff.style.retrieval import StyleRetriever
from dsdiff.types import Prediction
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, TINY_CONFIG, make_patient, randomize_zeros, write_case

CPU = torch.device("cpu")


class EnhancingWhereBright(torch.nn.Module):
    """A backbone whose enhancement is 3 where T2 is bright, and 1 more where FLAIR is bright."""

    multiple = 2

    def forward(self, x_t, t, cond):
        bright = (cond.masked_sources[:, :, 0] > 1.5).float()
        return Prediction(3 * bright[:, 1, None] + bright[:, 2, None])


class FlairStyleRetriever(StyleRetriever):
    """A retriever whose style depends on whether the case has a FLAIR."""

    def __init__(self):
        """Create it without patients."""

    def predict_style(self, features, exclude=()):
        weights = [0.5, 0.3, -0.2, 0.1] if "flair" in str(features) else [0.1, -0.4, 0.2, 0.9]
        return StyleCode("linear", np.array(weights))

    def contains(self, features):
        return False


@pytest.fixture(scope="module")
def loaded() -> LoadedCase:
    volumes = {
        name: Volume(array, LPS_AFFINE) for name, array in make_patient().items() if name in ("t1", "t2", "flair")
    }
    return normalize.preprocess(volumes)


def make_model(contrast_dropout: float = 0.3, predict_error: bool = False, **conditioning) -> Model:
    backbone = {
        **TINY_CONFIG["backbone"],
        "params": {**TINY_CONFIG["backbone"]["params"], "out_channels": 1 + predict_error},
    }
    config_parts = {
        "data": {"context_slices": 1, "crop": [32, 48], "contrast_dropout": contrast_dropout},
        "backbone": backbone,
        "process": {"target": "bridge", "params": {"sigma": 0.5, "predict_error": predict_error}},
        "conditioning": conditioning,
    }
    config = parse_config({**TINY_CONFIG, **config_parts}, "test")
    network = config.build_network().eval()
    randomize_zeros(network)
    return Model("tiny", "0", config, network, config.build_process(), config.build_sampler(), CPU)


def test_contribution_is_the_enhancement_by_that_contrast(loaded):
    model, images = make_model(), loaded.case.images
    model.network.backbone = EnhancingWhereBright()
    explanation = occlusion.explain(loaded, model, samples=1)
    assert explanation.occlusion_methods == {"t1": "mirrored", "t2": "withheld", "flair": "withheld"}

    bright_t2, bright_flair = images["t2"] > 1.5, images["flair"] > 1.5
    assert np.allclose(explanation.contribution_maps["t2"], 3 * bright_t2, atol=0.03)  # bf16
    assert np.allclose(explanation.contribution_maps["flair"], bright_flair, atol=0.03)
    assert np.allclose(explanation.contribution_maps["t1"], 0, atol=0.03)
    assert explanation.std is None

    first = explanation.enhancements[0]
    assert first.driver == "t2"
    assert first.contributions["t2"] == pytest.approx(0.75, abs=0.1)
    assert bright_t2[first.point]


def test_mirroring_changes_only_one_contrast_and_undoes_itself(loaded):
    case, brain = loaded.case, loaded.case.brain
    mirrored = occlusion.mirror_contrast(case, "flair")
    assert not np.allclose(mirrored.images["flair"], case.images["flair"])
    assert not mirrored.images["flair"][~brain].any()
    assert mirrored.images["t2"] is case.images["t2"]

    x = np.flatnonzero(brain.any((1, 2)))
    symmetric = brain & np.roll(brain[::-1], x[0] + x[-1] + 1 - len(brain), 0)
    twice = occlusion.mirror_contrast(mirrored, "flair")
    assert np.allclose(twice.images["flair"][symmetric], case.images["flair"][symmetric])


def test_contrast_that_the_model_needs_is_mirrored(loaded):
    explanation = occlusion.explain(loaded, make_model(contrast_dropout=0.0), samples=1)
    assert explanation.occlusion_methods["flair"] == "mirrored"


def test_enhancements_are_the_largest_with_their_volumes():
    enhancement = np.zeros((30, 30, 30), np.float32)
    enhancement[2:8, 2:8, 2:8], enhancement[15:20, 15:20, 15:20], enhancement[25, 25, 25] = 2.0, 3.0, 9.0
    lesion = enhancement.copy()
    lesion[17, 17, 17] = 5
    contributions = {"t1": enhancement / 2, "t2": -enhancement}

    first, second = occlusion.find_enhancements(enhancement, contributions, lesion, (1.0, 1.0, 2.0))
    assert (round(first.ml, 3), first.mean) == (0.432, 2.0)
    assert (round(second.ml, 3), second.mean) == (0.25, 3.0)
    assert first.contributions == {"t1": pytest.approx(0.5), "t2": pytest.approx(-1)}
    assert second.point == (17, 17, 17)


@pytest.mark.parametrize("conditioning", [{"edges": "sobel"}, {"encoder": "shared", "style": "linear"}])
def test_figure_has_a_panel_for_every_input(loaded, conditioning):
    model = make_model(**conditioning)
    incomplete = replace(loaded, case=occlusion.drop_contrast(loaded.case, "flair"))
    explanation = occlusion.explain(incomplete, model, samples=2)

    figure = occlusion_figure.plot_explanation(explanation, model, "P01")
    titles = {axis.get_title() for axis in figure.axes}
    assert {"T1", "T2", "synthetic T1ce", "enhancement", "T2 withheld"} <= titles
    assert "FLAIR" not in titles
    assert ("edges of T2" in titles) == ("edges" in conditioning)
    assert ({"shared", "specific to T1", "style image"} <= titles) == ("encoder" in conditioning)


def test_occlusion_keeps_the_style_of_the_complete_case(loaded):
    model = replace(make_model(style="linear"), metadata=ModelMetadata(style_retriever=FlairStyleRetriever()))
    explanation = occlusion.explain(loaded, model, samples=1)

    occluded_case = occlusion.drop_contrast(loaded.case, "flair")
    style = StyleReference("", FlairStyleRetriever().predict_style({"flair": {}}))
    occluded = Pipeline(model, SynthesisOptions(style=style)).synthesize_preprocessed(occluded_case)
    expected = explanation.enhancement - occlusion.compute_enhancement(occluded, "t1")
    assert np.allclose(explanation.contribution_maps["flair"], expected, atol=1e-6)

    own_style = Pipeline(model).synthesize_preprocessed(occluded_case)
    assert not np.allclose(occluded.z, own_style.z, atol=1e-3)


def test_condition_has_the_style_image_of_the_synthesis(loaded):
    model = replace(make_model(style="linear"), metadata=ModelMetadata(style_retriever=FlairStyleRetriever()))
    result, brain = Pipeline(model).synthesize_preprocessed(loaded.case), loaded.case.brain
    z = brain.shape[2] // 2
    cond, box = occlusion.condition_at(result, model, z)
    style_slice = occlusion.paste_slice(cond.style[0, 0].numpy(), box, brain.shape)[..., 0]
    assert np.allclose(style_slice[brain[..., z]], result.style_image[..., z][brain[..., z]], atol=1e-5)


def test_predicted_error_is_the_uncertainty_without_samples(loaded):
    explanation = occlusion.explain(loaded, make_model(predict_error=True), samples=4)
    assert explanation.std[loaded.case.brain].std() > 0
    assert np.array_equal(explanation.std, explanation.result.z_std)


def test_explain_command_writes_a_figure(model_folder, tmp_path, cli):
    case = write_case(tmp_path, "P01")
    exit_code, output = cli("explain", case, "-o", tmp_path / "new" / "e.png", "--model", model_folder)
    assert exit_code == 0, output
    assert (tmp_path / "new" / "e.png").stat().st_size > 10000


def test_explain_command_refuses_missing_cases_and_other_formats(model_folder, tmp_path, cli):
    case = write_case(tmp_path, "P01")
    assert cli("explain", tmp_path / "missing", "-o", tmp_path / "e.png", "--model", model_folder)[0] == 2
    (tmp_path / "folder").mkdir()
    for name in ("e.jpg", "folder"):
        exit_code, output = cli("explain", case, "-o", tmp_path / name, "--model", model_folder)
        assert exit_code == 2
        assert ".png" in output
