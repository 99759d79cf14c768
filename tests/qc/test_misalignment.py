"""Detection of contrasts that are not co-registered."""

from dataclasses import replace

import numpy as np
import pytest

from dsdiff.preprocessing.normalize import preprocess
from dsdiff.qc.misalignment import estimate_shift, misalignment_warnings
from tests.qc.heads import Volumes, change_arrays, simulate_head


@pytest.fixture(scope="module")
def head() -> Volumes:
    return simulate_head(0)


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, 0, 0), (0, -3, 0), (-2, 3, 0)])
def test_shift_is_estimated_on_the_search_grid(head: Volumes, shift: tuple[int, int, int]) -> None:
    case = preprocess(head).case
    shifted = np.roll(case.images["t2"], shift, (0, 1, 2)) * case.brain
    estimated = estimate_shift(replace(case, images=case.images | {"t2": shifted}), "t2", "t1")
    assert estimated == pytest.approx([3.0 * n for n in shift])


def test_displaced_contrast_is_named_with_its_direction(head: Volumes) -> None:
    assert misalignment_warnings(preprocess(head).case, "t1") == ()
    shifted = change_arrays(head, lambda array: np.roll(array, 2, 0), contrasts=("flair",))
    (warning,) = misalignment_warnings(shifted, "t1")
    assert warning.startswith("flair seems to lie 6 mm")
    assert warning.endswith("of t1: are the contrasts co-registered?")
