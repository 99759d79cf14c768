import numpy as np
import pytest

from dsdiff.preprocessing import normalize, slices
from dsdiff.preprocessing.normalize import PreprocessedCase
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, make_patient


@pytest.fixture
def case() -> PreprocessedCase:
    images = make_patient()
    volumes = {contrast: Volume(images[contrast], LPS_AFFINE) for contrast in ("t1", "t2", "flair")}
    return normalize.preprocess(volumes).case


@pytest.mark.parametrize("multiple", [4, 16, 64])  # 64 is larger than the volume: boxes reach beyond it
@pytest.mark.parametrize("context_slices", [1, 3, 5])
def test_batches_hold_every_brain_voxel_once(case: PreprocessedCase, multiple: int, context_slices: int) -> None:
    volume = np.zeros(case.brain.shape, np.float32)
    slice_indices = []
    for batch in slices.make_batches(case, ("t2", "t1"), context_slices, multiple, 4):
        assert batch.sources.shape[1:3] == (2, context_slices)
        assert batch.sources.shape[3] % multiple == batch.sources.shape[4] % multiple == 0
        for box, sources in zip(batch.boxes, batch.sources, strict=True):
            slices.add_slice(volume, sources[1, context_slices // 2], box)
            slice_indices.append(box.z)

    assert sorted(slice_indices) == list(np.flatnonzero(case.brain.any((0, 1))))
    assert np.array_equal(volume, case.images["t1"])


def test_batch_holds_the_neighbors_of_a_slice(case: PreprocessedCase) -> None:
    padded = np.pad(case.images["t1"], ((8, 8), (8, 8), (0, 0)))
    for batch in slices.make_batches(case, ("t1",), 3, 8, 1):
        (box,) = batch.boxes
        if 0 < box.z < case.brain.shape[2] - 1:
            x, y = box.x + 8, box.y + 8
            window = padded[x : x + box.h, y : y + box.w, box.z - 1 : box.z + 2]
            assert np.array_equal(batch.sources[0, 0], window.transpose(2, 0, 1))


def test_absent_contrast_is_nan_and_listed(case: PreprocessedCase) -> None:
    for batch in slices.make_batches(case, ("t1", "pd"), 1, 8, 4):
        assert batch.absent == (1,)
        assert np.isnan(batch.sources[:, 1]).any()
        assert not np.isnan(batch.sources[:, 0]).any()


def test_boxes_fit_the_brain_tightly(case: PreprocessedCase) -> None:
    for box in slices.brain_boxes(case.brain, 8):
        rows = np.flatnonzero(case.brain[:, :, box.z].any(1))
        assert box.x <= rows[0]
        assert box.x + box.h > rows[-1]
        assert box.h - (rows[-1] - rows[0] + 1) < 8
