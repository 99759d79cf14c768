import numpy as np
import pytest

from dsdiff.volume import Volume, same_grid


def test_spacing_is_the_length_of_the_axes():
    affine = np.array([[0, 2.0, 0, 5], [3.0, 0, 0, 6], [0, 0, -4.0, 7], [0, 0, 0, 1]])
    assert Volume(np.zeros((2, 2, 2)), affine).spacing == pytest.approx([3, 2, 4])


def test_grids_that_part_far_from_the_origin_are_told_apart():
    a = Volume(np.zeros((100, 100, 100)), np.eye(4))
    tilted = np.eye(4)
    tilted[0, 1] = 1e-3  # 0.1 mm at the far corner, nothing at the first voxel
    assert same_grid(a, a)
    assert not same_grid(a, Volume(a.array, tilted))
    assert not same_grid(a, Volume(np.zeros((100, 100, 99)), np.eye(4)))


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        Volume(np.zeros((2, 2, 2)), np.eye(4)).with_array(np.zeros((2, 2, 3)))
