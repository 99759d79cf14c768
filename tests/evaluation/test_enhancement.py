import numpy as np
import pytest

from dsdiff.evaluation import enhancement
from dsdiff.evaluation.regions import regions

MM = (1.0, 1.0, 1.0)
SHAPE = (48, 48, 40)


def cube(*corner, side=6):
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(c, c + side) for c in corner)] = True
    return mask


def place(labels=None):
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    return regions(brain, labels)


RIGHT, LEFT, NOWHERE = cube(10, 10, 10), cube(26, 10, 10), cube(10, 30, 20)
LABELS = 4.0 * (RIGHT | LEFT)
T1 = np.zeros(SHAPE)


def enhancing(*masks, by=6.0):
    return by * np.any(masks, axis=0).astype(float)


def test_lesions_found_missed_and_not_there():
    truth, made = enhancing(RIGHT, LEFT), enhancing(RIGHT, NOWHERE)
    found = enhancement.score(made, truth, T1, place(LABELS), MM)
    assert (found["lesions"], found["lesions_found"], found["detection"]) == (2, 1, 0.5)
    assert found["false_lesions"] == 1
    assert found["enhancing_ml_label"] == pytest.approx(2 * 216 / 1000)
    # the cube grows by less than a voxel when it is smoothed and cut at a quarter of its height
    size = (enhancement.enhancement_map(enhancing(NOWHERE), T1, place().brain, MM) > 1.5).sum() / 1000
    assert found["false_ml"] == pytest.approx(size)
    assert 0.216 <= size < 0.512
    assert found["enhancing_ml"] == pytest.approx(0.216)  # inside the tumour only
    assert found["enhancing_ml_truth"] == pytest.approx(0.432)


def test_what_is_made_far_beyond_a_lesion_is_false_enhancement_though_no_false_lesion():
    """Bright all over and touching one small lesion: no component is false, most of its voxels are."""
    truth, made = enhancing(RIGHT), enhancing(cube(8, 8, 8, side=30))
    found = enhancement.score(made, truth, T1, place(4.0 * RIGHT), MM)
    assert found["false_lesions"] == 0
    where = enhancement.compare(made, truth, T1, place(4.0 * RIGHT), MM)
    beyond = where.made & ~enhancement.near(where.true | RIGHT, MM, 2.0)
    deep = np.zeros(SHAPE, bool)
    deep[6:-6, 6:-6, 6:-6] = True  # the brain begins at 2; over 4 mm below its surface
    assert found["false_ml"] == pytest.approx((beyond & deep).sum() / 1000)
    assert found["false_ml"] > 20


def test_perfect_and_absent_enhancement():
    truth = enhancing(RIGHT, LEFT)
    perfect = enhancement.score(truth, truth, T1, place(LABELS), MM)
    assert (perfect["detection"], perfect["false_lesions"], perfect["false_ml"]) == (1, 0, 0)
    copy = enhancement.score(T1, truth, T1, place(LABELS), MM)
    assert (copy["detection"], copy["false_lesions"], copy["enhancing_ml"]) == (0, 0, 0)


def test_what_enhances_in_truth_outside_the_segmentation_is_no_false_lesion():
    """Vessels and the choroid plexus take up the agent as well."""
    truth = enhancing(RIGHT, LEFT, NOWHERE)
    assert enhancement.score(truth, truth, T1, place(LABELS), MM)["false_lesions"] == 0


def test_without_tumour_only_false_enhancement_is_scored():
    for labels in (None, np.zeros(SHAPE)):
        found = enhancement.score(enhancing(NOWHERE), T1, T1, place(labels), MM)
        assert found["false_lesions"] == 1
        assert np.isnan([found["lesions"], found["detection"], found["enhancing_ml"]]).all()
    oedema = enhancement.score(T1, T1, T1, place(2.0 * RIGHT), MM)
    assert (oedema["lesions"], oedema["enhancing_ml_truth"], np.isnan(oedema["detection"])) == (0, 0, True)


def test_enhancement_at_the_surface_is_not_counted():
    rim = place().brain & ~cube(5, 5, 5, side=30) & (np.arange(SHAPE[0]) < 5)[:, None, None]
    assert enhancement.score(enhancing(rim), T1, T1, place(), MM)["false_lesions"] == 0


def test_components_by_hand():
    mask = cube(0, 0, 0) | cube(7, 0, 0) | cube(20, 20, 20, side=3)  # a gap of one voxel; 27 mm3
    assert enhancement.components(mask, MM).max() == 2
    assert enhancement.components(mask, MM, join_mm=2.0).max() == 1
    assert enhancement.components(mask, (1.0, 1.0, 2.0)).max() == 3  # 54 mm3
    joined = enhancement.components(mask, MM, join_mm=2.0)
    assert (joined > 0).sum() == 2 * 216  # joining adds no voxel
    assert enhancement.components(np.zeros(SHAPE, bool), MM).max() == 0


def test_near_by_hand():
    mask = np.zeros((7, 7, 7), bool)
    mask[3, 3, 3] = True
    assert enhancement.near(mask, MM, 1.0).sum() == 7
    assert enhancement.near(mask, (1.0, 1.0, 3.0), 1.0).sum() == 5
    assert not enhancement.near(~mask & mask, MM, 5.0).any()


def test_the_map_of_even_enhancement_is_even_up_to_the_edge_of_the_brain():
    where = place()
    found = enhancement.enhancement_map(T1 + 2.5, T1, where.brain, MM)
    assert found[where.brain] == pytest.approx(2.5)
    assert not found[~where.brain].any()


@pytest.mark.parametrize("size", [0.5, 0.8, 1.0, 1.0000001, 1.05, 1.5])
def test_what_lies_within_two_millimetres_is_one_lesion_whatever_the_voxels(size):
    spacing, most = (size,) * 3, int(2.0 / size + 1e-3)  # voxels between that make no more than 2 mm
    for between, n in ((most, 1), (most + 1, 2)):
        mask = np.zeros((40, 12, 12), bool)
        mask[2:12, 1:11, 1:11] = mask[12 + between : 22 + between, 1:11, 1:11] = True
        assert enhancement.components(mask, spacing, join_mm=2.0).max() == n


def test_the_distance_of_false_enhancement_is_no_matter_of_rounding():
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    assert np.array_equal(enhancement.near(mask, (1.0, 1.0, 1.0), 2.0), enhancement.near(mask, (1.0000001,) * 3, 2.0))
