import numpy as np
import pytest

from dsdiff.evaluation import calibration

RNG = np.random.default_rng(3)
SHAPE = (40, 40, 40)
FULL_REGION = np.ones(SHAPE, bool)
STD = RNG.uniform(0.5, 2, SHAPE)
MEAN = RNG.normal(size=SHAPE)
TRUTH = MEAN + STD * RNG.normal(size=SHAPE)


def test_coverage_by_hand():
    truth = np.array([0.0, 0.5, 1.0, 3.0]).reshape(4, 1, 1)
    covered = calibration.coverage(truth, 0 * truth, np.ones_like(truth), truth >= 0, (0.5, 0.8, 0.95))
    assert covered == {0.5: 0.5, 0.8: 0.75, 0.95: 0.75}  # half-widths 0.674, 1.282, 1.960
    samples = np.arange(11.0).reshape(11, 1, 1, 1) * np.ones((11, 3, 1, 1))
    truth = np.array([1.0, 2.5, 5.0]).reshape(3, 1, 1)
    covered = calibration.sample_coverage(truth, samples, truth > 0, (0.5, 0.8))
    assert covered == {0.5: pytest.approx(2 / 3), 0.8: 1}


def test_calibrated_intervals_cover_at_their_levels():
    curve = calibration.coverage(TRUTH, MEAN, STD, FULL_REGION)
    for level, covered in curve.items():
        assert covered == pytest.approx(level, abs=0.01)
    assert calibration.calibration_error(curve) < 0.005
    samples = MEAN + STD * RNG.normal(size=(100, *SHAPE))
    for level, covered in calibration.sample_coverage(TRUTH, samples, FULL_REGION).items():
        assert covered == pytest.approx(level, abs=0.02)
    overconfident = calibration.coverage(TRUTH, MEAN, STD / 2, FULL_REGION)
    assert overconfident[0.95] < 0.7
    assert calibration.calibration_error(overconfident) > 0.1
    assert calibration.calibration_error({0.5: 0.4, 0.9: 0.7}) == pytest.approx(0.15)


def test_error_correlation():
    ranks = np.arange(8.0).reshape(2, 2, 2)
    inside = ranks >= 0
    assert calibration.error_correlation(ranks, 0 * ranks, ranks**2, inside) == pytest.approx(1)
    assert calibration.error_correlation(ranks, 0 * ranks, -ranks, inside) == pytest.approx(-1)
    assert 0.2 < calibration.error_correlation(TRUTH, MEAN, STD, FULL_REGION) < 0.6


def test_scores_without_data_are_nan():
    empty = ~FULL_REGION
    assert np.isnan(calibration.coverage(TRUTH, MEAN, STD, empty)[0.5])
    assert np.isnan(calibration.sample_coverage(TRUTH, np.stack([MEAN, TRUTH]), empty)[0.5])
    assert np.isnan(calibration.error_correlation(TRUTH, MEAN, STD, empty))
    assert np.isnan(calibration.error_correlation(TRUTH, MEAN, 0 * STD + 1, FULL_REGION))
    assert np.isnan(calibration.error_correlation(TRUTH, TRUTH, STD, FULL_REGION))
    exact = calibration.coverage(TRUTH, TRUTH, 0 * STD, FULL_REGION)
    assert exact[0.5] == 1  # an exact prediction needs no width
