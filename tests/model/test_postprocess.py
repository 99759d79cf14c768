from dataclasses import replace

import numpy as np
import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.errors import ModelError
from dsdiff.inference import model as models
from dsdiff.inference.options import plan
from dsdiff.inference.pipeline import LEARNT_ELSEWHERE, run
from dsdiff.inference.style_reference import Reference
from dsdiff.model import checkpoint, postprocess
from dsdiff.model.postprocess import Refinement
from dsdiff.volume import Volume
from tests.toy_data import LPS, TINY, patient, wake

CPU = torch.device("cpu")
SPACING = (1.0, 1.0, 2.0)
AS_IT_IS = Refinement((1.0, 0.0), (1.0, 0.0, 0.0, 0.0))


def images(seed=0):
    """An answer, the style that was told, T1 and the brain."""
    rng = np.random.default_rng(seed)
    brain = patient(seed)["t1"] > 0
    image, style, t1 = (rng.standard_normal(brain.shape).astype(np.float32) * brain for _ in range(3))
    return image, style, t1, brain


def test_weights_of_the_finest_scale_alone_change_nothing():
    image, style, t1, brain = images()
    assert np.allclose(AS_IT_IS(image, style, t1, brain, SPACING), image, atol=1e-6)


def test_of_faint_enhancement_a_share_is_withheld_and_no_voxel_changes_its_rank():
    image, style, t1, brain = images()
    image *= 3
    careful = replace(AS_IT_IS, withheld=0.2)
    before, after = (made(image, style, t1, brain, SPACING)[brain] - t1[brain] for made in (AS_IT_IS, careful))
    faint, strong = (before > 0) & (before < postprocess.FAINT), before > postprocess.FAINT
    assert np.allclose(after[before <= 0], before[before <= 0], atol=1e-5)
    assert np.allclose(after[faint], 0.8 * before[faint], atol=1e-5)
    assert np.allclose(after[strong], before[strong] - 0.2 * postprocess.FAINT, atol=1e-5)
    assert (np.diff(after[np.argsort(before)]) >= -1e-5).all()
    assert not careful(image, style, t1, brain, SPACING)[~brain].any()


def test_a_tumour_teaches_by_its_share_whatever_its_size():
    *_, brain = images()
    flat = np.where(brain, np.float32(1), 0)
    small, none = np.zeros_like(brain), np.zeros_like(brain)
    small[tuple(np.argwhere(brain)[:50].T)] = True
    truth = np.where(small, 3 * flat, flat)  # what is drawn is a third of it in the tumour, and right elsewhere
    taught = postprocess.lesson(flat, 0 * flat, truth, brain, small, SPACING).moment[len(postprocess.STYLE_MM)]
    assert taught == pytest.approx(3 * postprocess.TUMOUR_SHARE + 1 - postprocess.TUMOUR_SHARE)
    for of_all in (none, brain):
        plain = postprocess.lesson(flat, 0 * flat, truth, brain, of_all, SPACING).moment[len(postprocess.STYLE_MM)]
        assert plain == pytest.approx(truth[brain].mean())


def test_planted_weights_are_found_in_any_number_of_patients():
    planted = Refinement((0.7, 0.2), (0.3, 0.5, -0.4, 0.6))
    lessons = []
    for seed in range(3):
        image, style, t1, brain = images(seed)
        truth = planted(image, style, t1, brain, SPACING)
        lessons.append(
            postprocess.lesson(image, style, truth, brain, np.arange(brain.size).reshape(brain.shape) % 9 == 0, SPACING)
        )
    found = postprocess.together(lessons).refinement()
    assert found.style == pytest.approx(planted.style, abs=0.01)
    assert found.change == pytest.approx(planted.change, abs=0.05)


def test_scales_are_averages_within_the_brain():
    image, style, _, brain = images()
    constant = np.where(brain, np.float32(2), 0)
    for part in postprocess.scales(constant, 0 * style, brain, SPACING)[len(postprocess.STYLE_MM) :]:
        assert np.allclose(part[brain], 2, atol=1e-4)
        assert not part[~brain].any()
    *_, fine, _, _, broad = postprocess.scales(image, style, brain, SPACING)
    assert broad[brain].std() < 0.3 * fine[brain].std()


def test_a_refinement_is_read_as_it_was_written_with_and_without_what_is_withheld():
    careful = replace(AS_IT_IS, withheld=0.1)
    assert postprocess.parse(careful.dump(), "here") == careful
    assert postprocess.parse('{"style": [1, 0], "change": [1, 0, 0, 0]}', "here") == AS_IT_IS


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"style": [1], "change": [1, 2, 3, 4]}',
        "no",
        '{"style": [1, 0], "change": [1, 0, 0, 0], "withheld": 2}',
    ],
)
def test_what_is_no_refinement_is_refused(text):
    with pytest.raises(ModelError, match="here does not say how its answer is put together"):
        postprocess.parse(text, "here")


def test_a_model_folder_carries_its_refinement_to_the_t1ce(tmp_path):
    config = configs.parse({**TINY, "conditioning": {"style": "linear"}}, "tiny")
    network = config.build_network()
    wake(network)
    planted = Refinement((0.9, 0.05), (0.5, 0.5, 0.0, 0.2), withheld=0.3)
    for name, facts in (("plain", {}), ("refined", {"refinement": planted.dump()})):
        checkpoint.save(tmp_path / name, network.state_dict(), configs.dump(config), "# tiny\n", facts)
    loaded = {name: models.load(tmp_path / name, CPU) for name in ("plain", "refined")}
    volumes = {name: Volume(patient(4)[name], LPS) for name in config.data.contrasts}
    style = Reference("it", np.array([0.5, 0.3, -0.2, 0.1]))
    plain, refined = (run(volumes, loaded[name], style=style) for name in ("plain", "refined"))
    prepared = plain.prepared
    assert plain.styled is not None
    assert plain.styled.std() > 0.1
    t1 = prepared.images[config.data.source_contrast]
    expected = planted(plain.z, plain.styled, t1, prepared.brain, prepared.spacing)
    assert np.array_equal(refined.z, expected)
    assert not np.allclose(refined.t1ce.array, plain.t1ce.array)
    several = run(volumes, loaded["refined"], plan(loaded["refined"], samples=2), style=style)
    assert LEARNT_ELSEWHERE in several.warnings
    assert LEARNT_ELSEWHERE not in refined.warnings
    unlike_style = run(volumes, loaded["refined"])  # told none: the answer is taken as it is
    assert unlike_style.styled is None
