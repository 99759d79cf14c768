from dataclasses import replace

import numpy as np
import pytest
import torch

from dsdiff.config.run import dump_config, parse_config
from dsdiff.inference.model import load_model
from dsdiff.inference.options import SynthesisOptions
from dsdiff.inference.pipeline import Pipeline
from dsdiff.inference.style_reference import StyleReference
from dsdiff.model import checkpoint, postprocess
from dsdiff.model.metadata import ModelMetadata
from dsdiff.model.postprocess import STYLE_MM, TUMOUR_WEIGHT, ScaleStacking
from dsdiff.style.regression import StyleCode
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, TINY_CONFIG, make_patient, randomize_zeros

CPU = torch.device("cpu")
SPACING = (1.0, 1.0, 2.0)
IDENTITY = ScaleStacking((1.0, 0.0), (1.0, 0.0, 0.0, 0.0))


def random_images(seed=0):
    """An output, a style image, T1 and the brain mask."""
    rng = np.random.default_rng(seed)
    brain = make_patient(seed)["t1"] > 0
    image, style_image, t1 = (rng.standard_normal(brain.shape).astype(np.float32) * brain for _ in range(3))
    return image, style_image, t1, brain


def test_unit_weights_of_the_finest_scales_keep_the_image():
    image, style_image, t1, brain = random_images()
    assert np.allclose(IDENTITY(image, style_image, t1, brain, SPACING), image, atol=1e-6)


def test_attenuation_of_faint_enhancement_keeps_the_order_of_voxels():
    image, style_image, t1, brain = random_images()
    image *= 3
    attenuated = replace(IDENTITY, faint_attenuation=0.2)
    kept_enhancement = (IDENTITY(image, style_image, t1, brain, SPACING) - t1)[brain]
    enhancement = (attenuated(image, style_image, t1, brain, SPACING) - t1)[brain]

    limit = postprocess.FAINT_ENHANCEMENT
    is_faint, is_strong = (kept_enhancement > 0) & (kept_enhancement < limit), kept_enhancement > limit
    is_negative = kept_enhancement <= 0
    assert np.allclose(enhancement[is_negative], kept_enhancement[is_negative], atol=1e-5)
    assert np.allclose(enhancement[is_faint], 0.8 * kept_enhancement[is_faint], atol=1e-5)
    assert np.allclose(enhancement[is_strong], kept_enhancement[is_strong] - 0.2 * limit, atol=1e-5)
    assert (np.diff(enhancement[np.argsort(kept_enhancement)]) >= -1e-5).all()
    assert not attenuated(image, style_image, t1, brain, SPACING)[~brain].any()


def test_a_tumour_of_any_size_has_its_weight_in_the_fit():
    *_, brain = random_images()
    flat = np.where(brain, np.float32(1), 0)
    tumour = np.zeros_like(brain)
    tumour[tuple(np.argwhere(brain)[:50].T)] = True
    truth = np.where(tumour, 3 * flat, flat)

    def first_moment(mask):
        return postprocess.normal_equations(flat, 0 * flat, truth, brain, mask, SPACING).moment[len(STYLE_MM)]

    assert first_moment(tumour) == pytest.approx(3 * TUMOUR_WEIGHT + 1 - TUMOUR_WEIGHT)
    for mask in (np.zeros_like(brain), brain):
        assert first_moment(mask) == pytest.approx(truth[brain].mean())


def test_the_fit_recovers_known_weights():
    true_stacking = ScaleStacking((0.7, 0.2), (0.3, 0.5, -0.4, 0.6))
    equations = []
    for seed in range(3):
        image, style_image, t1, brain = random_images(seed)
        truth = true_stacking(image, style_image, t1, brain, SPACING)
        tumour = np.arange(brain.size).reshape(brain.shape) % 9 == 0
        equations.append(postprocess.normal_equations(image, style_image, truth, brain, tumour, SPACING))

    fitted = postprocess.sum_equations(equations).solve()
    assert fitted.style_weights == pytest.approx(true_stacking.style_weights, abs=0.01)
    assert fitted.change_weights == pytest.approx(true_stacking.change_weights, abs=0.05)


def test_scales_are_means_over_the_brain():
    image, style_image, _, brain = random_images()
    constant = np.where(brain, np.float32(2), 0)
    for scale in postprocess.gaussian_scales(constant, 0 * style_image, brain, SPACING)[len(STYLE_MM) :]:
        assert np.allclose(scale[brain], 2, atol=1e-4)
        assert not scale[~brain].any()
    *_, finest, _, _, coarsest = postprocess.gaussian_scales(image, style_image, brain, SPACING)
    assert coarsest[brain].std() < 0.3 * finest[brain].std()


def test_plain_values_round_trip():
    attenuated = replace(IDENTITY, faint_attenuation=0.1)
    assert ScaleStacking.from_dict(attenuated.to_dict()) == attenuated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style_weights": [1.0]}, "1 style weights and 4 change weights; needed are 2 and 4"),
        ({"style_weights": ["x", "y"]}, "could not convert"),
        ({"faint_attenuation": 2}, "needed is 0 or more, and less than 1"),
    ],
)
def test_wrong_weights_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        ScaleStacking.from_dict(IDENTITY.to_dict() | change)


def test_synthesis_applies_the_postprocessing_of_the_model_folder(tmp_path):
    config = parse_config({**TINY_CONFIG, "conditioning": {"style": "linear"}}, "tiny")
    network = config.build_network()
    randomize_zeros(network)
    stacking = ScaleStacking((0.9, 0.05), (0.5, 0.5, 0.0, 0.2), faint_attenuation=0.3)
    models = {}
    for name, metadata in (("plain", ModelMetadata()), ("stacked", ModelMetadata(postprocessing=stacking))):
        checkpoint.save_model(tmp_path / name, network.state_dict(), dump_config(config), "# tiny\n", metadata)
        models[name] = load_model(tmp_path / name, CPU)
    volumes = {name: Volume(make_patient(4)[name], LPS_AFFINE) for name in config.data.contrasts}
    style = StyleReference("reference", StyleCode("linear", np.array([0.5, 0.3, -0.2, 0.1])))

    plain = Pipeline(models["plain"], SynthesisOptions(style=style)).synthesize_volumes(volumes)
    stacked = Pipeline(models["stacked"], SynthesisOptions(style=style)).synthesize_volumes(volumes)
    assert plain.style_image is not None
    assert plain.style_image.std() > 0.1
    t1 = plain.case.images[config.data.source_contrast]
    assert np.array_equal(stacked.z, stacking(plain.z, plain.style_image, t1, plain.case.brain, plain.case.spacing))
    assert not np.allclose(stacked.t1ce.array, plain.t1ce.array)

    two_samples = Pipeline(models["stacked"], SynthesisOptions(samples=2, style=style)).synthesize_volumes(volumes)
    assert any("the model was calibrated for 1 step" in warning for warning in two_samples.warnings)
    assert not any("calibrated" in warning for warning in stacked.warnings)
    assert Pipeline(models["stacked"]).synthesize_volumes(volumes).style_image is None  # then nothing is recombined
