import numpy as np
import pytest
from jaxtyping import TypeCheckError
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio

from dsdiff.evaluation import brain_scores, ssim, voxelwise
from dsdiff.evaluation.baselines import blurred_truth
from dsdiff.evaluation.regions import regions

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(100, 20, (22, 24, 20))
IMAGE = TRUTH + RNG.normal(0, 8, TRUTH.shape)
EVERYWHERE = np.ones(TRUTH.shape, bool)


def test_psnr_by_hand_and_by_scikit_image():
    zeros, halves = np.zeros((2, 2, 2)), np.full((2, 2, 2), 0.5)
    assert voxelwise.psnr(halves, zeros, halves > 0, 1.0) == pytest.approx(20 * np.log10(2))
    assert voxelwise.psnr(zeros, zeros, halves > 0, 1.0) == float("inf")
    expected = peak_signal_noise_ratio(TRUTH, IMAGE, data_range=130)
    assert voxelwise.psnr(IMAGE, TRUTH, EVERYWHERE, 130.0) == pytest.approx(expected, abs=1e-9)


def test_nrmse_and_mae_by_hand_and_by_scikit_image():
    truth, image = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    image[0], everywhere = 3.0, np.ones((2, 2, 2), bool)
    assert voxelwise.nrmse(image, truth, everywhere, 10.0) == pytest.approx(0.3 / np.sqrt(2))
    assert voxelwise.mae(image, truth, everywhere, 10.0) == pytest.approx(0.15)
    peak = float(TRUTH.max() - TRUTH.min())
    expected = normalized_root_mse(TRUTH, IMAGE, normalization="min-max")
    assert voxelwise.nrmse(IMAGE, TRUTH, EVERYWHERE, peak) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [voxelwise.psnr, voxelwise.nrmse, voxelwise.mae, ssim.ssim, ssim.ms_ssim])
def test_what_cannot_be_measured(metric):
    assert np.isnan(metric(IMAGE, TRUTH, ~EVERYWHERE, 130.0))
    assert np.isfinite(metric(np.full_like(TRUTH, 5), TRUTH, EVERYWHERE, 130.0))
    with pytest.raises(TypeCheckError):
        metric(IMAGE[1:], TRUTH, EVERYWHERE, 130.0)


def test_robust_scale_by_hand():
    image = np.array([0.0, 1, 2, 3, 100]).reshape(5, 1, 1)
    found = voxelwise.robust(image, np.ones((5, 1, 1), bool))
    assert found[:, 0, 0] == pytest.approx((np.array([0, 1, 2, 3, 100]) - 2) / 1.4826)
    with pytest.raises(ValueError, match="constant"):
        voxelwise.robust(np.ones((3, 3, 3)), np.ones((3, 3, 3), bool))


def test_linear_fit_removes_any_linear_map():
    assert voxelwise.linear_fit(-3 * TRUTH + 7, TRUTH, EVERYWHERE) == pytest.approx(TRUTH)
    flat = voxelwise.linear_fit(np.ones_like(TRUTH), TRUTH, EVERYWHERE)
    assert flat == pytest.approx(np.full_like(TRUTH, TRUTH.mean()))


def test_auc_by_hand():
    score = np.array([3.0, 1, 2, 2, 0, 5]).reshape(6, 1, 1)
    positive = np.array([1, 0, 1, 0, 0, 0], bool).reshape(6, 1, 1)
    # pairs: 3 > 1, 3 > 2, 3 > 0, 3 < 5 | 2 > 1, 2 = 2, 2 > 0, 2 < 5
    assert voxelwise.auc(score, positive, ~positive) == pytest.approx((3 + 2.5) / 8)
    assert np.isnan(voxelwise.auc(score, positive, np.zeros_like(positive)))


def test_gain_by_hand():
    truth, region = np.full((2, 2, 2), 4.0), np.ones((2, 2, 2), bool)
    assert voxelwise.gain(np.full((2, 2, 2), 1.0), truth, region) == 0.25
    assert np.isnan(voxelwise.gain(truth, truth, ~region))
    assert np.isnan(voxelwise.gain(truth, -truth, region))
    assert np.isnan(voxelwise.gain(truth, 0.2 * truth, region))  # hardly any enhancement: a ratio of noises


def patient():
    rng = np.random.default_rng(4)
    brain = np.zeros((40, 40, 30), bool)
    brain[5:35, 5:35, 4:26] = True
    labels = np.zeros(brain.shape)
    labels[12:24, 12:24, 10:20] = 2
    labels[15:21, 15:21, 12:18] = 4
    t1 = rng.normal(500, 60, brain.shape) * brain
    truth = (t1 * 1.3 + 40 + 300 * (labels == 4)) * brain
    return t1, truth, regions(brain, labels)


def test_the_truth_scores_perfectly_and_a_copy_of_t1_at_chance():
    t1, truth, where = patient()
    perfect = brain_scores.score(truth * 2 + 5, truth, t1, where)
    assert perfect["psnr_fit"] > 200
    assert perfect["gain"] == pytest.approx(1)
    assert perfect["ssim"] == pytest.approx(1)
    assert perfect["auc_brain"] > 0.99
    copy = brain_scores.score(t1, truth, t1, where)
    assert (copy["auc_brain"], copy["auc_tumour"], copy["gain"]) == (0.5, 0.5, 0)
    blurred = brain_scores.score(blurred_truth(truth, where.brain), truth, t1, where)
    assert blurred["gain"] > 0.5
    assert set(copy) == set(brain_scores.SCORES)


def test_without_enhancing_tumour_its_scores_are_not_numbers():
    t1, truth, where = patient()
    for labels in (None, 2.0 * where.tumour):
        found = brain_scores.score(t1, truth, t1, regions(where.brain, labels))
        assert np.isnan([found["auc_brain"], found["auc_tumour"], found["gain"]]).all()
        assert np.isfinite(found["psnr"])


def test_regions_of_both_label_habits():
    brain = np.ones((3, 2, 1), bool)  # half of it tumour
    before, since, cavity = ([1, 2, 4], [1, 2, 3], [3, 2, 4])  # from 2024, 4 is the resection cavity

    def found(labels):
        return regions(brain, np.stack([labels, np.zeros(3)], 1).reshape(3, 2, 1))

    assert found(cavity).enhancing[:, 0].ravel().tolist() == [True, False, False]
    for labels in (before, since):
        assert found(labels).enhancing[:, 0].ravel().tolist() == [False, False, True]
        assert found(labels).rest_of_tumour[:, 0].ravel().tolist() == [True, True, False]
        assert not found(labels).tumour[:, 1].any()
