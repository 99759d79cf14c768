import numpy as np
import pytest

from dsdiff.preprocessing import normalize, slices
from dsdiff.volume import Volume
from tests.toy_data import LPS, patient


@pytest.fixture
def prepared():
    images = patient()
    return normalize.apply({name: Volume(images[name], LPS) for name in ("t1", "t2", "flair")})


@pytest.mark.parametrize("multiple", [4, 16, 64])  # 64 is larger than the volume: boxes reach beyond it
@pytest.mark.parametrize("slab", [1, 3, 5])
def test_every_brain_voxel_is_taken_once_and_put_back(prepared, multiple, slab):
    out, seen = np.zeros(prepared.brain.shape, np.float32), []
    for batch in slices.batches(prepared, ("t2", "t1"), slab, multiple, 4):
        assert batch.sources.shape[1:3] == (2, slab)
        assert batch.sources.shape[3] % multiple == batch.sources.shape[4] % multiple == 0
        for box, sources in zip(batch.boxes, batch.sources, strict=True):
            slices.add(out, sources[1, slab // 2], box)
            seen.append(box.z)
    assert sorted(seen) == list(np.flatnonzero(prepared.brain.any((0, 1))))
    assert np.array_equal(out, prepared.images["t1"])


def test_a_slab_holds_the_neighbours(prepared):
    around = np.pad(prepared.images["t1"], ((8, 8), (8, 8), (0, 0)))
    for batch in slices.batches(prepared, ("t1",), 3, 8, 1):
        (box,) = batch.boxes
        if 0 < box.z < prepared.brain.shape[2] - 1:
            x, y = box.x + 8, box.y + 8
            window = around[x : x + box.h, y : y + box.w, box.z - 1 : box.z + 2]
            assert np.array_equal(batch.sources[0, 0], window.transpose(2, 0, 1))


def test_boxes_hug_the_brain(prepared):
    for box in slices.boxes(prepared.brain, 8):
        rows = np.flatnonzero(prepared.brain[:, :, box.z].any(1))
        assert box.x <= rows[0]
        assert box.x + box.h > rows[-1]
        assert box.h - (rows[-1] - rows[0] + 1) < 8
