import numpy as np
import pytest

from dsdiff.style.regression import LinearRegression, fit_style, render_style_np

SHAPE = (24, 24, 12)
BRAIN = np.ones(SHAPE, bool)


def random_sources(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=SHAPE).astype(np.float32) for _ in range(3)]


def linear_target(sources):
    return 2 * sources[0] - sources[1] + 0.5 * sources[2] + 3


def test_merged_regressions_recover_the_weights():
    parts = []
    for seed in range(2):
        regression, sources = LinearRegression(3), random_sources(seed)
        regression.add_patient(sources, linear_target(sources), BRAIN)
        parts.append(regression)
    sources = random_sources(9)
    merged = LinearRegression.merge(parts)
    assert np.allclose(merged.weights, [2, -1, 0.5, 3], atol=1e-4)
    assert np.allclose(merged.predict(sources, BRAIN), linear_target(sources), atol=1e-4)


def test_merging_no_regressions_raises_an_error():
    with pytest.raises(ValueError, match="no patient"):
        LinearRegression.merge([])


def test_replacing_the_style_keeps_the_enhancement():
    sources = random_sources(0)
    enhancement = np.zeros(SHAPE)
    enhancement[3:7, 3:7, 3:7] = 5
    target = (-sources[0] + 0.3 * sources[1] + enhancement).astype(np.float32)
    new_style = LinearRegression(3)
    new_style.add_patient(sources, sources[0] + 0.1 * sources[2], BRAIN)

    own_style = fit_style(sources, target, BRAIN)
    restyled = target + new_style.predict(sources, BRAIN) - own_style.predict(sources, BRAIN)
    assert np.allclose(restyled, sources[0] + 0.1 * sources[2] + enhancement, atol=0.1)


def test_curves_bend_at_the_knots_and_lines_do_not():
    sources = random_sources(1)
    target = np.maximum(sources[0], 1) - 2 * np.minimum(sources[1], -1) + 0.5
    curves, lines = LinearRegression(3, "curves"), LinearRegression(3)
    for regression in (curves, lines):
        regression.add_patient(sources, target, BRAIN)
    assert np.abs(curves.predict(sources, BRAIN) - target).mean() < 0.03
    assert np.abs(lines.predict(sources, BRAIN) - target).mean() > 0.2


@pytest.mark.parametrize("kind", ["linear", "curves"])
def test_a_rendered_slice_equals_the_prediction_of_the_regression(kind):
    sources = random_sources(1)
    regression = LinearRegression(3, kind)
    regression.add_patient(sources, np.maximum(sources[0], 1) - sources[1], BRAIN)
    middle_slice = np.stack(sources)[..., 5]
    rendered = render_style_np(middle_slice, regression.style_code, BRAIN[..., 5])
    assert np.allclose(rendered, regression.predict(sources, BRAIN)[..., 5], atol=1e-4)
    assert not render_style_np(middle_slice, regression.style_code, np.zeros(SHAPE[:2], bool)).any()
