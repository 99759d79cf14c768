import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from dsdiff.errors import ConfigError
from dsdiff.evaluation import brain_scores, protocols
from dsdiff.evaluation.regions import make_regions

RNG = np.random.default_rng(7)
BRAIN = np.zeros((40, 40, 30), bool)
BRAIN[8:32, 8:32, 7:23] = True
LABELS = np.zeros(BRAIN.shape)
LABELS[12:24, 12:24, 10:20] = 2
LABELS[15:21, 15:21, 12:18] = 4
T1 = RNG.normal(500, 60, BRAIN.shape) * BRAIN
TRUTH = (T1 * 1.3 + 40 + 300 * (LABELS == 4)) * BRAIN
IMAGE = (TRUTH + RNG.normal(0, 50, BRAIN.shape)) * BRAIN
REGIONS = make_regions(BRAIN, LABELS)


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_identical_volumes_have_infinite_psnr(name, fit):
    scores = protocols.score_similarity(TRUTH, TRUTH, REGIONS, name, fit)
    assert np.isinf([value for key, value in scores.items() if key.startswith("psnr")]).all()


def test_the_brain_protocol_agrees_with_the_main_scores():
    scores = protocols.score_similarity(IMAGE, TRUTH, REGIONS, "brain", False)
    fitted = protocols.score_similarity(IMAGE, TRUTH, REGIONS, "brain", True)
    main_scores = brain_scores.score_brain(IMAGE, TRUTH, T1, REGIONS)
    assert scores["psnr_brain"] == main_scores["psnr"]
    assert scores["ssim_brain"] == pytest.approx(main_scores["ssim"], abs=1e-12)
    assert fitted["psnr_brain"] == main_scores["psnr_fit"]


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_the_truth_scores_perfectly_in_any_unit_by_every_protocol(name):
    perfect = protocols.score_similarity(3.0 * TRUTH, TRUTH, REGIONS, name, False)
    for key, value in perfect.items():
        if key.startswith("psnr"):
            assert value > 200
        elif not np.isnan(value):  # MS-SSIM of a region smaller than a coarse voxel
            assert value == pytest.approx(float("ssim" in key), abs=1e-9)
    assert perfect.keys() >= {"psnr_enhancing", "psnr_tumour", "psnr_rest", "ssim_tumour", "ssim_rest"}


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_an_empty_tumour_has_no_score(name):
    scores = protocols.score_similarity(IMAGE, TRUTH, make_regions(BRAIN, None), name, False)
    nan_scores = {key for key, value in scores.items() if np.isnan(value)}
    assert {"psnr_tumour", "ssim_tumour", "mae_enhancing"} <= nan_scores
    of_full_volume = {key for key in nan_scores if key.endswith(("brain", "volume"))}
    assert of_full_volume <= {"ms_ssim_volume"}  # the volume is too small for four scales


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_a_constant_image_raises(name):
    with pytest.raises(ValueError, match="constant"):
        protocols.score_similarity(np.zeros_like(TRUTH), TRUTH, REGIONS, name, False)


def test_the_volume_protocol_agrees_with_scikit_image():
    """Of volumes that already share a scale, without a region."""
    center = np.median(TRUTH[BRAIN])
    width = np.median(np.abs(TRUTH[BRAIN] - center))
    flipped = (2 * center - TRUTH) * BRAIN  # same median and deviation: matching changes nothing
    assert width > 0
    scores = protocols.score_similarity(flipped, TRUTH, REGIONS, "volume", False)
    peak = np.ptp(TRUTH)
    assert scores["psnr_volume"] == pytest.approx(peak_signal_noise_ratio(TRUTH, flipped, data_range=peak), abs=1e-6)
    expected = structural_similarity(
        TRUTH, flipped, data_range=peak, gaussian_weights=True, use_sample_covariance=False
    )
    assert scores["ssim_volume"] == pytest.approx(expected, abs=1e-6)


def test_background_lowers_the_error_by_its_share_of_the_volume():
    volume_mae = protocols.score_similarity(IMAGE, TRUTH, REGIONS, "volume", False)["mae_volume"]
    pair = protocols.PROTOCOLS["volume"].intensity_scale(IMAGE, TRUTH, REGIONS)
    brain_mae = np.abs(pair.image - pair.truth)[BRAIN].mean() / np.ptp(TRUTH)
    assert volume_mae * BRAIN.size / BRAIN.sum() == pytest.approx(brain_mae)


def test_the_brasyn_protocol_agrees_with_torchmetrics_on_masked_volumes():
    scores = protocols.score_similarity(IMAGE, TRUTH, REGIONS, "brasyn", False)
    pair = protocols.PROTOCOLS["brasyn"].structure_scale(IMAGE, TRUTH, REGIONS)
    for region, mask in (("tumour", REGIONS.tumour), ("rest", ~REGIONS.tumour)):
        image, truth = (torch.from_numpy(array * mask)[None, None] for array in (pair.image, pair.truth))
        expected = float(structural_similarity_index_measure(image, truth))
        assert scores[f"ssim_{region}"] == pytest.approx(expected, abs=1e-4)


def test_an_unknown_protocol_raises():
    with pytest.raises(ConfigError, match="protocol 'brane' is unknown; choose one of brain, brasyn, volume"):
        protocols.score_similarity(IMAGE, TRUTH, REGIONS, "brane", False)
