import numpy as np
import pytest

from dsdiff.evaluation import calibration

RNG = np.random.default_rng(3)
SHAPE = (40, 40, 40)
EVERYWHERE = np.ones(SHAPE, bool)
WIDTH = RNG.uniform(0.5, 2, SHAPE)
MEAN = RNG.normal(size=SHAPE)
TRUTH = MEAN + WIDTH * RNG.normal(size=SHAPE)


def test_coverage_by_hand():
    truth = np.array([0.0, 0.5, 1.0, 3.0]).reshape(4, 1, 1)
    found = calibration.coverage(truth, 0 * truth, np.ones_like(truth), truth >= 0, (0.5, 0.8, 0.95))
    assert found == {0.5: 0.5, 0.8: 0.75, 0.95: 0.75}  # half-widths 0.674, 1.282, 1.960
    samples = np.arange(11.0).reshape(11, 1, 1, 1) * np.ones((11, 3, 1, 1))
    truth = np.array([1.0, 2.5, 5.0]).reshape(3, 1, 1)
    assert calibration.sample_coverage(truth, samples, truth > 0, (0.5, 0.8))[0.5] == pytest.approx(2 / 3)
    assert calibration.sample_coverage(truth, samples, truth > 0, (0.5, 0.8))[0.8] == 1


def test_what_is_calibrated_covers_at_its_levels():
    curve = calibration.coverage(TRUTH, MEAN, WIDTH, EVERYWHERE)
    for level, found in curve.items():
        assert found == pytest.approx(level, abs=0.01)
    assert calibration.calibration_error(curve) < 0.005
    samples = MEAN + WIDTH * RNG.normal(size=(100, *SHAPE))
    for level, found in calibration.sample_coverage(TRUTH, samples, EVERYWHERE).items():
        assert found == pytest.approx(level, abs=0.02)
    overconfident = calibration.coverage(TRUTH, MEAN, WIDTH / 2, EVERYWHERE)
    assert overconfident[0.95] < 0.7
    assert calibration.calibration_error(overconfident) > 0.1
    assert calibration.calibration_error({0.5: 0.4, 0.9: 0.7}) == pytest.approx(0.15)


def test_error_correlation():
    ranks = np.arange(8.0).reshape(2, 2, 2)
    inside = ranks >= 0
    assert calibration.error_correlation(ranks, 0 * ranks, ranks**2, inside) == pytest.approx(1)
    assert calibration.error_correlation(ranks, 0 * ranks, -ranks, inside) == pytest.approx(-1)
    assert 0.2 < calibration.error_correlation(TRUTH, MEAN, WIDTH, EVERYWHERE) < 0.6


def test_what_cannot_be_measured():
    nothing = ~EVERYWHERE
    assert np.isnan(calibration.coverage(TRUTH, MEAN, WIDTH, nothing)[0.5])
    assert np.isnan(calibration.sample_coverage(TRUTH, np.stack([MEAN, TRUTH]), nothing)[0.5])
    assert np.isnan(calibration.error_correlation(TRUTH, MEAN, WIDTH, nothing))
    assert np.isnan(calibration.error_correlation(TRUTH, MEAN, 0 * WIDTH + 1, EVERYWHERE))
    assert np.isnan(calibration.error_correlation(TRUTH, TRUTH, WIDTH, EVERYWHERE))
    exact = calibration.coverage(TRUTH, TRUTH, 0 * WIDTH, EVERYWHERE)
    assert exact[0.5] == 1  # no width is needed where nothing is wrong
