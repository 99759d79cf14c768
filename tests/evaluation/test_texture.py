import numpy as np
import pytest

from dsdiff.evaluation import texture

BRAIN = np.zeros((12, 12, 12), bool)
BRAIN[2:-2, 2:-2, 2:-2] = True
RNG = np.random.default_rng(2)
TRUTH = RNG.normal(size=BRAIN.shape)
x, y, z = np.meshgrid(*(np.arange(12.0),) * 3, indexing="ij")


def test_slice_jumps_by_hand():
    even = x + y + z  # steps of 1 along every axis: r = 1 / 2
    steps = x + y + 3 * z
    assert texture.slice_jumps(steps, even, BRAIN) == pytest.approx(3)
    assert texture.slice_jumps(-5 * steps + 7, steps, BRAIN) == pytest.approx(1)


def test_offsets_of_single_slices_raise_slice_jumps():
    uneven = TRUTH + 3 * (np.arange(12) % 2)
    assert texture.slice_jumps(uneven, TRUTH, BRAIN) > 2


def test_sharpness_by_hand():
    saddle = x**2 - y**2  # a Laplacian of zero
    cubic = x**3  # a Laplacian of 6 x
    assert texture.sharpness(2 * cubic + saddle, cubic, BRAIN) == pytest.approx(2)
    assert texture.sharpness(TRUTH, TRUTH, BRAIN) == 1
    assert texture.sharpness(0 * TRUTH, TRUTH, BRAIN) == 0


@pytest.mark.parametrize("metric", [texture.slice_jumps, texture.sharpness])
def test_scores_without_data_are_nan(metric):
    assert np.isnan(metric(TRUTH, TRUTH, np.zeros_like(BRAIN)))
    assert np.isnan(metric(TRUTH, np.ones_like(TRUTH), BRAIN))
