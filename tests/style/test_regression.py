import numpy as np
import pytest

from dsdiff.style.regression import KNOTS, LinearRegression, own_style, told

SHAPE = (24, 24, 12)


def sources(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=SHAPE).astype(np.float32) for _ in range(3)]


def test_regression_finds_the_weights_and_merges():
    brain = np.ones(SHAPE, bool)
    parts = []
    for seed in range(2):
        part, x = LinearRegression(3), sources(seed)
        part.add(x, 2 * x[0] - x[1] + 0.5 * x[2] + 3, brain)
        parts.append(part)
    x = sources(9)
    assert np.allclose(LinearRegression.merged(parts).predict(x, brain), 2 * x[0] - x[1] + 0.5 * x[2] + 3, atol=1e-4)
    with pytest.raises(ValueError, match="no patient"):
        LinearRegression.merged([])


def test_another_style_leaves_enhancement_where_it_was():
    brain = np.ones(SHAPE, bool)
    x = sources(0)
    enhancement = np.zeros(SHAPE)
    enhancement[3:7, 3:7, 3:7] = 5
    truth = (-x[0] + 0.3 * x[1] + enhancement).astype(np.float32)
    other = LinearRegression(3)
    other.add(x, x[0] + 0.1 * x[2], brain)
    moved = truth + other.predict(x, brain) - own_style(x, truth, brain).predict(x, brain)
    assert np.allclose(moved, x[0] + 0.1 * x[2] + enhancement, atol=0.1)


def test_curves_bend_at_the_knots_and_are_drawn_as_they_were_fitted():
    brain, x = np.ones(SHAPE, bool), sources(1)
    truth = np.maximum(x[0], 1) - 2 * np.minimum(x[1], -1) + 0.5
    bent, straight = LinearRegression(3, KNOTS["curves"]), LinearRegression(3)
    for one in (bent, straight):
        one.add(x, truth, brain)
    assert np.abs(bent.predict(x, brain) - truth).mean() < 0.03
    assert np.abs(straight.predict(x, brain) - truth).mean() > 0.2
    for one in (bent, straight):
        slice_of = np.stack(x)[..., 5]
        assert np.allclose(told(slice_of, one.weights, brain[..., 5]), one.predict(x, brain)[..., 5], atol=1e-4)
    assert not told(slice_of, bent.weights, np.zeros(SHAPE[:2], bool)).any()
