import numpy as np
import pytest
from jaxtyping import TypeCheckError
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio

from dsdiff.evaluation import brain_scores, ssim, voxelwise
from dsdiff.evaluation.regions import make_regions

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(100, 20, (22, 24, 20))
IMAGE = TRUTH + RNG.normal(0, 8, TRUTH.shape)
FULL_REGION = np.ones(TRUTH.shape, bool)


def test_psnr_by_hand_and_by_scikit_image():
    zeros, halves = np.zeros((2, 2, 2)), np.full((2, 2, 2), 0.5)
    assert voxelwise.psnr(halves, zeros, halves > 0, 1.0) == pytest.approx(20 * np.log10(2))
    assert voxelwise.psnr(zeros, zeros, halves > 0, 1.0) == float("inf")
    expected = peak_signal_noise_ratio(TRUTH, IMAGE, data_range=130)
    assert voxelwise.psnr(IMAGE, TRUTH, FULL_REGION, 130.0) == pytest.approx(expected, abs=1e-9)


def test_nrmse_and_mae_by_hand_and_by_scikit_image():
    truth, image = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    image[0] = 3.0
    region = np.ones((2, 2, 2), bool)
    assert voxelwise.nrmse(image, truth, region, 10.0) == pytest.approx(0.3 / np.sqrt(2))
    assert voxelwise.mae(image, truth, region, 10.0) == pytest.approx(0.15)
    peak = float(TRUTH.max() - TRUTH.min())
    expected = normalized_root_mse(TRUTH, IMAGE, normalization="min-max")
    assert voxelwise.nrmse(IMAGE, TRUTH, FULL_REGION, peak) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [voxelwise.psnr, voxelwise.nrmse, voxelwise.mae, ssim.ssim, ssim.ms_ssim])
def test_an_empty_region_is_nan_and_other_shapes_raise(metric):
    assert np.isnan(metric(IMAGE, TRUTH, ~FULL_REGION, 130.0))
    assert np.isfinite(metric(np.full_like(TRUTH, 5), TRUTH, FULL_REGION, 130.0))
    with pytest.raises(TypeCheckError):
        metric(IMAGE[1:], TRUTH, FULL_REGION, 130.0)


def test_robust_scale_by_hand():
    image = np.array([0.0, 1, 2, 3, 100]).reshape(5, 1, 1)
    zscores = voxelwise.robust_zscore(image, np.ones((5, 1, 1), bool))
    assert zscores[:, 0, 0] == pytest.approx((np.array([0, 1, 2, 3, 100]) - 2) / 1.4826)
    with pytest.raises(ValueError, match="constant"):
        voxelwise.robust_zscore(np.ones((3, 3, 3)), np.ones((3, 3, 3), bool))


def test_a_fit_removes_any_linear_map():
    assert voxelwise.fit_linear_map(-3 * TRUTH + 7, TRUTH, FULL_REGION) == pytest.approx(TRUTH)
    flat = voxelwise.fit_linear_map(np.ones_like(TRUTH), TRUTH, FULL_REGION)
    assert flat == pytest.approx(np.full_like(TRUTH, TRUTH.mean()))


def test_auc_by_hand():
    values = np.array([3.0, 1, 2, 2, 0, 5]).reshape(6, 1, 1)
    positive = np.array([1, 0, 1, 0, 0, 0], bool).reshape(6, 1, 1)
    # pairs: 3 > 1, 3 > 2, 3 > 0, 3 < 5 | 2 > 1, 2 = 2, 2 > 0, 2 < 5
    assert voxelwise.auc(values, positive, ~positive) == pytest.approx((3 + 2.5) / 8)
    assert np.isnan(voxelwise.auc(values, positive, np.zeros_like(positive)))


def test_enhancement_recovery_by_hand():
    truth, region = np.full((2, 2, 2), 4.0), np.ones((2, 2, 2), bool)
    assert voxelwise.enhancement_recovery(np.full((2, 2, 2), 1.0), truth, region) == 0.25
    assert np.isnan(voxelwise.enhancement_recovery(truth, truth, ~region))
    assert np.isnan(voxelwise.enhancement_recovery(truth, -truth, region))
    assert np.isnan(voxelwise.enhancement_recovery(truth, 0.2 * truth, region))  # too little enhancement


def patient():
    rng = np.random.default_rng(4)
    brain = np.zeros((40, 40, 30), bool)
    brain[5:35, 5:35, 4:26] = True
    labels = np.zeros(brain.shape)
    labels[12:24, 12:24, 10:20] = 2
    labels[15:21, 15:21, 12:18] = 4
    t1 = rng.normal(500, 60, brain.shape) * brain
    truth = (t1 * 1.3 + 40 + 300 * (labels == 4)) * brain
    return t1, truth, make_regions(brain, labels)


def test_the_truth_scores_perfectly_and_a_copy_of_t1_at_chance():
    t1, truth, regions = patient()
    perfect = brain_scores.score_brain(truth * 2 + 5, truth, t1, regions)
    assert perfect["psnr_fit"] > 200
    assert perfect["enhancement_recovery"] == pytest.approx(1)
    assert perfect["ssim"] == pytest.approx(1)
    assert perfect["auc_brain"] > 0.99
    copy = brain_scores.score_brain(t1, truth, t1, regions)
    assert (copy["auc_brain"], copy["auc_tumour"], copy["enhancement_recovery"]) == (0.5, 0.5, 0)
    blurred = brain_scores.score_brain(voxelwise.blur_truth(truth, regions.brain), truth, t1, regions)
    assert blurred["enhancement_recovery"] > 0.5
    assert set(copy) == set(brain_scores.SCORE_DESCRIPTIONS)


def test_without_enhancing_tumour_its_scores_are_nan():
    t1, truth, regions = patient()
    for labels in (None, 2.0 * regions.tumour):
        scores = brain_scores.score_brain(t1, truth, t1, make_regions(regions.brain, labels))
        assert all(np.isnan(scores[name]) for name in brain_scores.ENHANCEMENT_SCORES)
        assert np.isfinite(scores["psnr"])


def test_regions_of_all_label_conventions():
    brain = np.ones((3, 2, 1), bool)  # half of it tumour
    until_2021, since_2023 = [1, 2, 4], [1, 2, 3]
    with_cavity = [3, 2, 4]  # since 2024, 4 is the resection cavity

    def regions_of(labels):
        return make_regions(brain, np.stack([labels, np.zeros(3)], 1).reshape(3, 2, 1))

    assert regions_of(with_cavity).enhancing[:, 0].ravel().tolist() == [True, False, False]
    for labels in (until_2021, since_2023):
        assert regions_of(labels).enhancing[:, 0].ravel().tolist() == [False, False, True]
        assert regions_of(labels).non_enhancing_tumour[:, 0].ravel().tolist() == [True, True, False]
        assert not regions_of(labels).tumour[:, 1].any()
