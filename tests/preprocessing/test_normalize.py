from dataclasses import replace
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import InputError
from dsdiff.preprocessing import normalize
from dsdiff.volume import Volume, from_canonical, to_canonical
from tests.toy_data import LPS, patient

CODES = ["".join(sides) for order in permutations(("RL", "AP", "SI")) for sides in product(*order)]


def volumes(affine=LPS):
    images = patient()
    return {name: Volume(images[name], affine) for name in ("t1", "t2", "flair")}


@pytest.mark.parametrize("codes", CODES)
def test_canonical_axes_have_an_exact_inverse(codes):
    image = nib.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), LPS)
    image = image.as_reoriented(nib.orientations.io_orientation(LPS)).as_reoriented(
        nib.orientations.axcodes2ornt(codes)
    )
    volume = Volume(np.asarray(image.dataobj), image.affine)
    canonical = to_canonical(volume)
    assert nib.aff2axcodes(canonical.affine) == ("R", "A", "S")
    back = from_canonical(canonical.array, volume)
    assert np.array_equal(back.array, volume.array)
    reference = nib.Nifti1Image(volume.array, volume.affine)
    assert np.array_equal(canonical.array, np.asarray(nib.as_closest_canonical(reference).dataobj))


@pytest.mark.parametrize("codes", CODES)
def test_a_voxel_is_told_in_the_order_of_its_file(codes):
    array = np.zeros((20, 24, 16), np.float32)
    array[5:15, 6:20, 4:12] = 100 * np.random.default_rng(0).random((10, 14, 8)) + 50
    ras = nib.Nifti1Image(array, np.eye(4))
    image = ras.as_reoriented(nib.orientations.axcodes2ornt(codes))
    volume = Volume(np.asarray(image.get_fdata(), np.float32), image.affine)
    prepared = normalize.apply({"t1": volume})
    point = tuple(int(at) for at in np.unravel_index(prepared.images["t1"].argmax(), prepared.brain.shape))
    assert prepared.voxel(point) == np.unravel_index(volume.array.argmax(), volume.shape)


def test_restore_undoes_apply():
    given = volumes()
    prepared = normalize.apply(given)
    brain = given["t1"].array > 0
    restored = normalize.restore(prepared, prepared.images["t1"])
    assert np.allclose(restored.array[brain], given["t1"].array[brain], rtol=1e-5)
    assert not restored.array[~brain].any()
    assert np.array_equal(restored.affine, LPS)


def test_a_standard_deviation_is_scaled_and_not_shifted():
    prepared = normalize.apply(volumes())
    spread = normalize.restore(prepared, np.ones(prepared.brain.shape, np.float32), spread=True)
    assert np.allclose(spread.array[spread.array > 0], prepared.scales["t1"].width)


def test_scores_are_centred_and_of_unit_width_in_the_brain():
    prepared = normalize.apply(volumes())
    for image in prepared.images.values():
        inside = image[prepared.brain]
        assert np.median(inside) == pytest.approx(0, abs=1e-3)
        assert np.median(np.abs(inside)) * normalize.GAUSSIAN == pytest.approx(1, rel=1e-3)
        assert not image[~prepared.brain].any()


def test_a_tumour_that_brightens_hardly_moves_the_scale():
    images = patient()
    brain = images["t1"] > 0
    plain, bright = images["t1"].copy(), images["t1"].copy()
    bright[images["seg"] > 0] *= 3
    a, b = normalize.robust_scale(plain, brain), normalize.robust_scale(bright, brain)
    assert b.centre == pytest.approx(a.centre, rel=0.01)
    assert b.width == pytest.approx(a.width, rel=0.05)


def test_the_brain_is_the_largest_foreground_without_holes():
    array = np.full((20, 20, 20), -7.0, np.float32)
    array[4:16, 4:16, 4:16] = 5
    array[9:11, 9:11, 9:11] = -7  # fluid that was clipped to the background
    array[1, 1, 1] = 3  # a speck
    brain = normalize.find_brain(array)
    assert brain.sum() == 12**3
    assert brain[10, 10, 10]
    assert not brain[1, 1, 1]


def test_no_brain_and_flat_contrasts_are_refused():
    empty = Volume(np.zeros((30, 30, 30), np.float32), np.eye(4))
    with pytest.raises(InputError, match="t1 holds no brain"):
        normalize.apply({"t1": empty})
    given = volumes()
    given["t2"] = given["t2"].with_array((given["t1"].array > 0).astype(np.float32))
    with pytest.raises(InputError, match="t2 is constant"):
        normalize.apply(given)


def test_doubts_are_put_into_words():
    given = volumes()
    assert any("only" in doubt and "ml" in doubt for doubt in normalize.apply(given).warnings)
    twins = {**given, "t2": given["t1"]}
    assert any("t1 and t2 are the same image" in doubt for doubt in normalize.apply(twins).warnings)
    flat = {name: Volume(np.repeat(v.array[:, :, 10:11], 3, 2), LPS) for name, v in given.items()}
    assert any("only 3 axial slices" in doubt for doubt in normalize.apply(flat).warnings)
    guessed = {**given, "t2": replace(given["t2"], oriented=False)}
    assert any("the header of t2 tells no orientation" in doubt for doubt in normalize.apply(guessed).warnings)
    thick = {name: Volume(v.array, LPS @ np.diag([1, 1, 5, 1])) for name, v in given.items()}
    assert any("1.00 x 1.00 x 5.00 mm" in doubt for doubt in normalize.apply(thick).warnings)
    head = {"t1": Volume(np.random.default_rng(0).normal(100, 9, (90, 90, 90)).astype(np.float32), np.eye(4))}
    assert any("skull" in doubt for doubt in normalize.apply(head).warnings)


def test_what_no_scanner_measures_is_refused():
    given = volumes()
    given["t2"].array[22, 26, 12] = 1e8
    with pytest.raises(InputError, match=r"t2 holds 1e\+08 in the brain, \d+ robust widths from its median"):
        normalize.apply(given)


def test_a_contrast_that_ends_within_the_brain_is_doubted():
    given = volumes()
    assert not any("cover" in doubt for doubt in normalize.apply(given).warnings)
    given["flair"].array[:, :, :8] = 0
    (doubt,) = (doubt for doubt in normalize.apply(given).warnings if "cover" in doubt)
    brain = given["t1"].array > 0
    assert doubt.startswith(f"flair does not cover {(brain[:, :, :8]).sum() / brain.sum():.0%} of the brain")
