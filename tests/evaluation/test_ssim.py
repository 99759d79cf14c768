import numpy as np
import pytest
from skimage.metrics import structural_similarity

from dsdiff.evaluation import ssim

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(100, 20, (22, 24, 20))
IMAGE = TRUTH + RNG.normal(0, 8, TRUTH.shape)
INSIDE = ssim.interior(TRUTH.shape)


def test_ssim_agrees_with_scikit_image():
    expected, full = structural_similarity(
        TRUTH, IMAGE, data_range=130, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert ssim.maps(IMAGE, TRUTH, 130.0)[0] == pytest.approx(full, abs=1e-9)
    assert ssim.ssim(IMAGE, TRUTH, INSIDE, 130.0) == pytest.approx(expected, abs=1e-9)  # it crops the border
    assert ssim.ssim(TRUTH, TRUTH, INSIDE, 130.0) == pytest.approx(1)


def test_ssim_of_constants_by_hand():
    """Without variance only luminance counts: (2 a b + c1) / (a^2 + b^2 + c1)."""
    a, b, c1 = np.full((12, 12, 12), 2.0), np.full((12, 12, 12), 4.0), 0.01**2
    everywhere = np.ones(a.shape, bool)
    assert ssim.ssim(a, b, everywhere, 1.0) == pytest.approx((16 + c1) / (20 + c1))
    # at every scale but the last contrast and structure are 1
    last = ssim.EXPONENTS[-1]
    assert ssim.ms_ssim(a, b, everywhere, 1.0) == pytest.approx(((16 + c1) / (20 + c1)) ** last)
    assert ssim.ms_ssim(0 * a, 0 * a, everywhere, 1.0) == 1


def test_an_empty_surrounding_changes_nothing():
    """Only the box that holds something is computed: the rest is known to be 1."""
    wide = [np.pad(array, 15) for array in (IMAGE, TRUTH)]
    shifted = [array + 1e-12 for array in wide]  # nothing is exactly zero: everything is computed
    for quick, slow in zip(ssim.maps(*wide, 130.0), ssim.maps(*shifted, 130.0), strict=True):
        assert quick == pytest.approx(slow, abs=1e-9)


def test_halves_are_means_and_drop_odd_ends():
    image = np.arange(2 * 2 * 3.0).reshape(2, 2, 3)
    assert ssim.halved(image).ravel() == pytest.approx([np.mean([0, 1, 3, 4, 6, 7, 9, 10])])


def test_contrast_turned_round_counts_as_nothing():
    image, everywhere = RNG.normal(0, 1, (40, 40, 40)), np.ones((40, 40, 40), bool)
    assert ssim.ms_ssim(-image, image, everywhere, 8.0) == 0
    assert ssim.ssim(-image, image, everywhere, 8.0) < 0


def test_a_small_region_vanishes_at_a_coarse_scale():
    region = np.zeros(TRUTH.shape, bool)
    region[10, 10, 10] = True
    assert np.isfinite(ssim.ssim(IMAGE, TRUTH, region, 130.0))
    assert np.isnan(ssim.ms_ssim(IMAGE, TRUTH, region, 130.0))
    assert np.isnan(ssim.ms_ssim(IMAGE, TRUTH, None, 130.0))  # no window fits at the fourth scale
