from dataclasses import replace

import numpy as np
import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.inference import model as models
from dsdiff.inference.pipeline import complete
from dsdiff.inference.style_reference import Reference
from dsdiff.interpret import occlusion, occlusion_figure
from dsdiff.preprocessing import normalize
from dsdiff.style.retrieval import StyleRetriever
from dsdiff.types import Prediction
from dsdiff.volume import Volume
from tests.toy_data import LPS, TINY, patient, wake, write_case

CPU = torch.device("cpu")


class FromT2(torch.nn.Module):
    """A backbone whose enhancement is 3 where T2 is bright, and 1 more where FLAIR is, if it is there."""

    multiple = 2

    def forward(self, x_t, t, cond):
        bright = (cond.known[:, :, 0] > 1.5).float()
        return Prediction(3 * bright[:, 1, None] + bright[:, 2, None])


@pytest.fixture(scope="module")
def prepared():
    volumes = {name: Volume(array, LPS) for name, array in patient().items() if name in ("t1", "t2", "flair")}
    return normalize.apply(volumes)


def model(dropout=0.3, spread=False, **conditioning):
    data = {"context_slices": 1, "crop": [32, 48], "contrast_dropout": dropout}
    backbone = {**TINY["backbone"], "params": {**TINY["backbone"]["params"], "out_channels": 1 + spread}}
    process = {"target": "bridge", "params": {"sigma": 0.5, "predict_error": spread}}
    asked = {"data": data, "backbone": backbone, "process": process, "conditioning": conditioning}
    config = configs.parse({**TINY, **asked}, "test")
    network = config.build_network().eval()
    wake(network)
    return models.Model("tiny", "0", config, network, config.build_process(), config.build_sampler(), CPU)


def test_what_is_lost_is_what_the_contrast_gave(prepared):
    given = model()
    given.network.backbone = FromT2()
    told = occlusion.explain(prepared, given, samples=1)
    assert told.taken == {"t1": "mirrored", "t2": "withheld", "flair": "withheld"}
    bright = prepared.images["t2"] > 1.5
    assert np.allclose(told.lost["t2"], 3 * bright, atol=0.03)  # bf16
    assert np.allclose(told.lost["flair"], prepared.images["flair"] > 1.5, atol=0.03)
    assert np.allclose(told.lost["t1"], 0, atol=0.03)
    assert told.spread is None
    (first, *_) = told.found
    assert first.driver == "t2"
    assert first.owed["t2"] == pytest.approx(0.75, abs=0.1)
    assert bright[first.point]


def test_what_a_model_cannot_do_without_is_mirrored(prepared):
    changed = occlusion.exchanged(prepared, "flair")
    twice = occlusion.exchanged(changed, "flair")
    inside = np.flatnonzero(prepared.brain.any((1, 2)))
    symmetric = prepared.brain & np.roll(prepared.brain[::-1], inside[0] + inside[-1] + 1 - len(prepared.brain), 0)
    assert np.allclose(twice.images["flair"][symmetric], prepared.images["flair"][symmetric])
    assert not np.allclose(changed.images["flair"], prepared.images["flair"])
    assert not changed.images["flair"][~prepared.brain].any()
    assert changed.images["t2"] is prepared.images["t2"]
    assert occlusion.explain(prepared, model(dropout=0.0), samples=1).taken["flair"] == "mirrored"


def test_enhancements_are_the_largest_and_in_millilitres():
    image = np.zeros((30, 30, 30), np.float32)
    image[2:8, 2:8, 2:8], image[15:20, 15:20, 15:20], image[25, 25, 25] = 2.0, 3.0, 9.0
    lesion = image.copy()
    lesion[17, 17, 17] = 5
    found = occlusion.enhancements(image, {"t1": image / 2, "t2": -image}, lesion, (1.0, 1.0, 2.0))
    assert [(round(e.ml, 3), e.mean) for e in found] == [(0.432, 2.0), (0.25, 3.0)]
    assert found[0].owed == {"t1": pytest.approx(0.5), "t2": pytest.approx(-1)}
    assert found[1].point == (17, 17, 17)


@pytest.mark.parametrize("conditioning", [{"edges": "sobel"}, {"encoder": "shared", "style": "linear"}])
def test_the_picture_has_every_panel(prepared, conditioning):
    given = model(**conditioning)
    lacking = occlusion.withheld(prepared, "flair")
    told = occlusion.explain(lacking, given, samples=2)
    figure = occlusion_figure.draw(told, given, "P01")
    titles = {axis.get_title() for axis in figure.axes}
    assert {"T1", "T2", "synthetic T1ce", "enhancement", "T2 withheld"} <= titles
    assert "FLAIR" not in titles
    assert ("structure of T2" in titles) == ("structure" in conditioning)
    assert ({"shared", "specific to T1", "style told"} <= titles) == ("encoder" in conditioning)


class NearestByFlair(StyleRetriever):
    """Training patients whose style depends on whether the case has a FLAIR."""

    def __init__(self):
        """Of no patient."""

    def code(self, measured, besides=None):
        return np.array([0.5, 0.3, -0.2, 0.1] if "flair" in str(measured) else [0.1, -0.4, 0.2, 0.9])

    def holds(self, measured):
        return False


def test_the_style_is_that_of_the_whole_case_and_is_shown_as_it_was_told(prepared):
    given = replace(model(style="linear"), nearest=NearestByFlair())
    told = occlusion.explain(prepared, given, samples=1)
    z = told.result.styled.shape[2] // 2
    cond, box = occlusion.condition_at(told.result, given, z)
    shown = occlusion.on_grid(cond.style[0, 0].numpy(), box, prepared.brain.shape)[..., 0]
    inside = prepared.brain[..., z]
    assert np.allclose(shown[inside], told.result.styled[..., z][inside], atol=1e-5)
    same = Reference("", given.nearest.code({"flair": {}}))
    without = complete(occlusion.withheld(prepared, "flair"), given, style=same)
    other = complete(occlusion.withheld(prepared, "flair"), given)
    expected = told.enhancement - occlusion.enhancement_of(without, "t1")
    assert np.allclose(told.lost["flair"], expected, atol=1e-6)
    assert not np.allclose(without.z, other.z, atol=1e-3)


def test_explain_from_the_command_line(model_folder, tmp_path, cli):
    case = write_case(tmp_path, "P01")
    for line, code in (((case, "-o", tmp_path / "new" / "e.png"), 0), ((tmp_path / "absent",), 2)):
        ended, said = cli("explain", *line, "--model", model_folder)
        assert ended == code, said
    assert (tmp_path / "new" / "e.png").stat().st_size > 10000
    for place in ("e.jpg", "new"):
        ended, said = cli("explain", case, "-o", tmp_path / place, "--model", model_folder)
        assert (ended, "give a file that ends in .png" in said) == (2, True)


def test_the_error_that_a_network_tells_is_shown_without_samples(prepared):
    told = occlusion.explain(prepared, model(spread=True), samples=4)
    assert told.spread[prepared.brain].std() > 0
    assert np.array_equal(told.spread, told.result.z_std)
