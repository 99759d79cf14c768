import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from dsdiff.errors import ConfigError
from dsdiff.evaluation import brain_scores, protocols
from dsdiff.evaluation.regions import regions

RNG = np.random.default_rng(7)
BRAIN = np.zeros((40, 40, 30), bool)
BRAIN[8:32, 8:32, 7:23] = True
LABELS = np.zeros(BRAIN.shape)
LABELS[12:24, 12:24, 10:20] = 2
LABELS[15:21, 15:21, 12:18] = 4
T1 = RNG.normal(500, 60, BRAIN.shape) * BRAIN
TRUTH = (T1 * 1.3 + 40 + 300 * (LABELS == 4)) * BRAIN
IMAGE = (TRUTH + RNG.normal(0, 50, BRAIN.shape)) * BRAIN
WHERE = regions(BRAIN, LABELS)


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_identical_volumes_have_no_finite_psnr(name, fit):
    found = protocols.likeness(TRUTH, TRUTH, WHERE, name, fit)
    assert np.isinf([value for key, value in found.items() if key.startswith("psnr")]).all()


def test_brain_is_what_eval_real_prints():
    found, plain = protocols.likeness(IMAGE, TRUTH, WHERE, "brain", False), brain_scores.score(IMAGE, TRUTH, T1, WHERE)
    assert found["psnr_brain"] == plain["psnr"]
    assert found["ssim_brain"] == pytest.approx(plain["ssim"], abs=1e-12)
    assert protocols.likeness(IMAGE, TRUTH, WHERE, "brain", True)["psnr_brain"] == plain["psnr_fit"]


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_every_protocol_knows_the_truth_and_any_unit(name):
    perfect = protocols.likeness(3.0 * TRUTH, TRUTH, WHERE, name, False)
    for key, value in perfect.items():
        if key.startswith("psnr"):
            assert value > 200
        elif not np.isnan(value):  # MS-SSIM of what is smaller than a coarse voxel
            assert value == pytest.approx(float("ssim" in key), abs=1e-9)
    assert perfect.keys() >= {"psnr_enhancing", "psnr_tumour", "psnr_rest", "ssim_tumour", "ssim_rest"}


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_an_empty_tumour_has_no_score(name):
    found = protocols.likeness(IMAGE, TRUTH, regions(BRAIN, None), name, False)
    empty = {key for key, value in found.items() if np.isnan(value)}
    assert {"psnr_tumour", "ssim_tumour", "mae_enhancing"} <= empty
    assert not {key for key in empty if key.endswith(("brain", "volume"))} - {
        "ms_ssim_volume"
    }  # too small for 4 scales


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_a_constant_image_is_refused(name):
    with pytest.raises(ValueError, match="constant"):
        protocols.likeness(np.zeros_like(TRUTH), TRUTH, WHERE, name, False)


def test_volume_counts_the_background_against_the_range_of_the_truth():
    """On volumes with one scale already it is scikit-image's, with nothing said of a region."""
    centre, width = np.median(TRUTH[BRAIN]), np.median(np.abs(TRUTH[BRAIN] - np.median(TRUTH[BRAIN])))
    flipped = (2 * centre - TRUTH) * BRAIN  # the same median and deviation, so nothing is left to match
    assert width > 0
    found = protocols.likeness(flipped, TRUTH, WHERE, "volume", False)
    peak = np.ptp(TRUTH)
    assert found["psnr_volume"] == pytest.approx(peak_signal_noise_ratio(TRUTH, flipped, data_range=peak), abs=1e-6)
    expected = structural_similarity(
        TRUTH, flipped, data_range=peak, gaussian_weights=True, use_sample_covariance=False
    )
    assert found["ssim_volume"] == pytest.approx(expected, abs=1e-6)


def test_background_is_worth_what_its_share_says():
    inside = protocols.likeness(IMAGE, TRUTH, WHERE, "volume", False)["mae_volume"] * BRAIN.size / BRAIN.sum()
    matched = protocols.PROTOCOLS["volume"].intensities(IMAGE, TRUTH, WHERE)
    assert inside == pytest.approx(np.abs(matched.image - matched.truth)[BRAIN].mean() / np.ptp(TRUTH))


def test_brasyn_is_torchmetrics_on_masked_volumes():
    found = protocols.likeness(IMAGE, TRUTH, WHERE, "brasyn", False)
    pair = protocols.PROTOCOLS["brasyn"].structure(IMAGE, TRUTH, WHERE)
    for region, mask in (("tumour", WHERE.tumour), ("rest", ~WHERE.tumour)):
        image, truth = (torch.from_numpy(array * mask)[None, None] for array in (pair.image, pair.truth))
        expected = float(structural_similarity_index_measure(image, truth))
        assert found[f"ssim_{region}"] == pytest.approx(expected, abs=1e-4)


def test_an_unknown_protocol_is_said():
    with pytest.raises(ConfigError, match="protocol 'brane' is unknown; known are brain, brasyn, volume"):
        protocols.likeness(IMAGE, TRUTH, WHERE, "brane", False)
