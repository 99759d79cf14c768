import numpy as np
import pytest
from skimage.metrics import structural_similarity

from dsdiff.evaluation import ssim

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(100, 20, (22, 24, 20))
IMAGE = TRUTH + RNG.normal(0, 8, TRUTH.shape)
INTERIOR = ssim.interior_mask(TRUTH.shape)


def test_ssim_agrees_with_scikit_image():
    expected, expected_map = structural_similarity(
        TRUTH, IMAGE, data_range=130, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert ssim.ssim_maps(IMAGE, TRUTH, 130.0)[0] == pytest.approx(expected_map, abs=1e-9)
    assert ssim.ssim(IMAGE, TRUTH, INTERIOR, 130.0) == pytest.approx(
        expected, abs=1e-9
    )  # scikit-image crops the border
    assert ssim.ssim(TRUTH, TRUTH, INTERIOR, 130.0) == pytest.approx(1)


def test_ssim_of_constants_by_hand():
    """Without variance only luminance counts: (2 a b + c1) / (a^2 + b^2 + c1)."""
    a, b, c1 = np.full((12, 12, 12), 2.0), np.full((12, 12, 12), 4.0), 0.01**2
    region = np.ones(a.shape, bool)
    assert ssim.ssim(a, b, region, 1.0) == pytest.approx((16 + c1) / (20 + c1))
    # Contrast and structure are 1; luminance counts only at the last scale.
    last_exponent = ssim.EXPONENTS[-1]
    assert ssim.ms_ssim(a, b, region, 1.0) == pytest.approx(((16 + c1) / (20 + c1)) ** last_exponent)
    assert ssim.ms_ssim(0 * a, 0 * a, region, 1.0) == 1


def test_an_empty_surrounding_changes_no_value():
    """Only the box with nonzero voxels is computed; SSIM is 1 elsewhere."""
    padded = [np.pad(array, 15) for array in (IMAGE, TRUTH)]
    shifted = [array + 1e-12 for array in padded]  # no voxel is exactly zero: all windows are computed
    for cropped, full in zip(ssim.ssim_maps(*padded, 130.0), ssim.ssim_maps(*shifted, 130.0), strict=True):
        assert cropped == pytest.approx(full, abs=1e-9)


def test_halving_averages_and_drops_odd_ends():
    image = np.arange(2 * 2 * 3.0).reshape(2, 2, 3)
    assert ssim.halve(image).ravel() == pytest.approx([np.mean([0, 1, 3, 4, 6, 7, 9, 10])])


def test_inverted_contrast_has_no_ms_ssim():
    image = RNG.normal(0, 1, (40, 40, 40))
    region = np.ones(image.shape, bool)
    assert ssim.ms_ssim(-image, image, region, 8.0) == 0
    assert ssim.ssim(-image, image, region, 8.0) < 0


def test_a_small_region_vanishes_at_a_coarse_scale():
    region = np.zeros(TRUTH.shape, bool)
    region[10, 10, 10] = True
    assert np.isfinite(ssim.ssim(IMAGE, TRUTH, region, 130.0))
    assert np.isnan(ssim.ms_ssim(IMAGE, TRUTH, region, 130.0))
    assert np.isnan(ssim.ms_ssim(IMAGE, TRUTH, None, 130.0))  # no window fits at the fourth scale
