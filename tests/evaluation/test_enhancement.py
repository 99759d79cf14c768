import numpy as np
import pytest

from dsdiff.evaluation import enhancement, lesion_detection
from dsdiff.evaluation.regions import make_regions

MM = (1.0, 1.0, 1.0)
SHAPE = (48, 48, 40)


def cube(*corner, side=6):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(c, c + side) for c in corner)] = True
    return mask


def regions_of(labels=None):
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    return make_regions(brain, labels)


RIGHT, LEFT, HEALTHY = cube(10, 10, 10), cube(26, 10, 10), cube(10, 30, 20)
LABELS = 4.0 * (RIGHT | LEFT)
T1 = np.zeros(SHAPE)


ENHANCEMENT = 6.0  # robust standard deviations


def enhancing(*masks):
    return ENHANCEMENT * np.any(masks, axis=0).astype(float)


def test_detected_missed_and_false_lesions():
    truth, synthetic = enhancing(RIGHT, LEFT), enhancing(RIGHT, HEALTHY)
    scores = lesion_detection.score_lesions(synthetic, truth, T1, regions_of(LABELS), MM)
    assert (scores["lesions"], scores["lesions_found"], scores["detection"]) == (2, 1, 0.5)
    assert scores["false_lesions"] == 1
    assert scores["enhancing_ml_label"] == pytest.approx(2 * 216 / 1000)
    # the cube grows by less than a voxel when it is smoothed and cut at a quarter of its height
    size = (enhancement.enhancement_map(enhancing(HEALTHY), T1, regions_of().brain, MM) > 1.5).sum() / 1000
    assert scores["false_ml"] == pytest.approx(size)
    assert 0.216 <= size < 0.512
    assert scores["enhancing_ml"] == pytest.approx(0.216)  # inside the tumour only
    assert scores["enhancing_ml_truth"] == pytest.approx(0.432)


def test_enhancement_far_beyond_a_lesion_is_false_enhancement_but_no_false_lesion():
    """A large bright component touches one small lesion: it is no false lesion, but most of its voxels are false."""
    truth, synthetic = enhancing(RIGHT), enhancing(cube(8, 8, 8, side=30))
    scores = lesion_detection.score_lesions(synthetic, truth, T1, regions_of(4.0 * RIGHT), MM)
    assert scores["false_lesions"] == 0
    masks = lesion_detection.detect_enhancement(synthetic, truth, T1, regions_of(4.0 * RIGHT), MM)
    is_far = masks.synthetic & ~enhancement.dilate_mm(masks.acquired | RIGHT, MM, 2.0)
    is_deep = np.zeros(SHAPE, bool)
    is_deep[6:-6, 6:-6, 6:-6] = True  # the brain begins at 2; over 4 mm below its surface
    assert scores["false_ml"] == pytest.approx((is_far & is_deep).sum() / 1000)
    assert scores["false_ml"] > 20


def test_perfect_and_missing_enhancement():
    truth = enhancing(RIGHT, LEFT)
    perfect = lesion_detection.score_lesions(truth, truth, T1, regions_of(LABELS), MM)
    assert (perfect["detection"], perfect["false_lesions"], perfect["false_ml"]) == (1, 0, 0)
    copy = lesion_detection.score_lesions(T1, truth, T1, regions_of(LABELS), MM)
    assert (copy["detection"], copy["false_lesions"], copy["enhancing_ml"]) == (0, 0, 0)


def test_true_enhancement_outside_the_segmentation_is_no_false_lesion():
    """Vessels and the choroid plexus take up contrast agent as well."""
    truth = enhancing(RIGHT, LEFT, HEALTHY)
    assert lesion_detection.score_lesions(truth, truth, T1, regions_of(LABELS), MM)["false_lesions"] == 0


def test_without_tumour_only_false_enhancement_is_scored():
    for labels in (None, np.zeros(SHAPE)):
        scores = lesion_detection.score_lesions(enhancing(HEALTHY), T1, T1, regions_of(labels), MM)
        assert scores["false_lesions"] == 1
        assert np.isnan([scores["lesions"], scores["detection"], scores["enhancing_ml"]]).all()
    edema = lesion_detection.score_lesions(T1, T1, T1, regions_of(2.0 * RIGHT), MM)
    assert (edema["lesions"], edema["enhancing_ml_truth"], np.isnan(edema["detection"])) == (0, 0, True)


def test_enhancement_at_the_surface_of_the_brain_does_not_count():
    rim = regions_of().brain & ~cube(5, 5, 5, side=30) & (np.arange(SHAPE[0]) < 5)[:, None, None]
    assert lesion_detection.score_lesions(enhancing(rim), T1, T1, regions_of(), MM)["false_lesions"] == 0


def test_components_by_hand():
    mask = cube(0, 0, 0) | cube(7, 0, 0) | cube(20, 20, 20, side=3)  # a gap of one voxel; 27 mm3
    assert enhancement.label_components(mask, MM).max() == 2
    assert enhancement.label_components(mask, MM, merge_mm=2.0).max() == 1
    assert enhancement.label_components(mask, (1.0, 1.0, 2.0)).max() == 3  # 54 mm3
    merged = enhancement.label_components(mask, MM, merge_mm=2.0)
    assert (merged > 0).sum() == 2 * 216  # merging adds no voxel
    assert enhancement.label_components(np.zeros(SHAPE, bool), MM).max() == 0


def test_dilation_by_hand():
    mask = np.zeros((7, 7, 7), bool)
    mask[3, 3, 3] = True
    assert enhancement.dilate_mm(mask, MM, 1.0).sum() == 7
    assert enhancement.dilate_mm(mask, (1.0, 1.0, 3.0), 1.0).sum() == 5
    assert not enhancement.dilate_mm(~mask & mask, MM, 5.0).any()


def test_the_map_of_uniform_enhancement_is_uniform_up_to_the_edge_of_the_brain():
    brain = regions_of().brain
    values = enhancement.enhancement_map(T1 + 2.5, T1, brain, MM)
    assert values[brain] == pytest.approx(2.5)
    assert not values[~brain].any()


@pytest.mark.parametrize("size", [0.5, 0.8, 1.0, 1.0000001, 1.05, 1.5])
def test_components_within_two_millimeters_are_one_lesion_at_any_voxel_size(size):
    spacing = (size,) * 3
    max_gap = int(2.0 / size + 1e-3)  # voxels in 2 mm
    for gap, n_components in ((max_gap, 1), (max_gap + 1, 2)):
        mask = np.zeros((40, 12, 12), bool)
        mask[2:12, 1:11, 1:11] = mask[12 + gap : 22 + gap, 1:11, 1:11] = True
        assert enhancement.label_components(mask, spacing, merge_mm=2.0).max() == n_components


def test_rounding_of_the_voxel_size_does_not_change_a_dilation():
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    exact = enhancement.dilate_mm(mask, (1.0, 1.0, 1.0), 2.0)
    assert np.array_equal(exact, enhancement.dilate_mm(mask, (1.0000001,) * 3, 2.0))
