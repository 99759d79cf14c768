from dataclasses import replace
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import InputError
from dsdiff.orientation import from_canonical, to_canonical
from dsdiff.preprocessing import normalize
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, make_patient

ORIENTATIONS = ["".join(sides) for order in permutations(("RL", "AP", "SI")) for sides in product(*order)]


def make_volumes(affine: np.ndarray = LPS_AFFINE) -> dict[str, Volume]:
    images = make_patient()
    return {contrast: Volume(images[contrast], affine) for contrast in ("t1", "t2", "flair")}


def warnings_of(volumes: dict[str, Volume]) -> tuple[str, ...]:
    return normalize.preprocess(volumes).case.warnings


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_canonical_axes_have_an_exact_inverse(codes: str) -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), LPS_AFFINE)
    image = image.as_reoriented(nib.orientations.io_orientation(LPS_AFFINE)).as_reoriented(
        nib.orientations.axcodes2ornt(codes)
    )
    volume = Volume(np.asarray(image.dataobj), image.affine)

    canonical = to_canonical(volume)
    assert nib.aff2axcodes(canonical.affine) == ("R", "A", "S")
    assert np.array_equal(from_canonical(canonical.array, volume).array, volume.array)
    reference = nib.Nifti1Image(volume.array, volume.affine)
    assert np.array_equal(canonical.array, np.asarray(nib.as_closest_canonical(reference).dataobj))


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_file_voxel_follows_the_axes_of_the_file(codes: str) -> None:
    array = np.zeros((20, 24, 16), np.float32)
    array[5:15, 6:20, 4:12] = 100 * np.random.default_rng(0).random((10, 14, 8)) + 50
    image = nib.Nifti1Image(array, np.eye(4)).as_reoriented(nib.orientations.axcodes2ornt(codes))
    volume = Volume(np.asarray(image.get_fdata(), np.float32), image.affine)

    loaded = normalize.preprocess({"t1": volume})
    t1 = loaded.case.images["t1"]
    point = tuple(int(index) for index in np.unravel_index(t1.argmax(), t1.shape))
    assert loaded.geometry.file_voxel(point) == np.unravel_index(volume.array.argmax(), volume.shape)


def test_restore_inverts_preprocess() -> None:
    volumes = make_volumes()
    loaded = normalize.preprocess(volumes)
    brain = volumes["t1"].array > 0

    restored = loaded.geometry.restore(loaded.case.images["t1"], loaded.case.brain)
    assert np.allclose(restored.array[brain], volumes["t1"].array[brain], rtol=1e-5)
    assert not restored.array[~brain].any()
    assert np.array_equal(restored.affine, LPS_AFFINE)


def test_restore_std_scales_without_a_shift() -> None:
    loaded = normalize.preprocess(make_volumes())
    ones = np.ones(loaded.case.brain.shape, np.float32)
    std = loaded.geometry.restore_std(ones, loaded.case.brain).array
    assert np.allclose(std[std > 0], loaded.geometry.scales["t1"].width)


def test_uncrop_inverts_the_crop_to_the_box() -> None:
    loaded = normalize.preprocess(make_volumes())
    full_brain = loaded.geometry.uncrop(loaded.case.brain)
    assert np.array_equal(full_brain[loaded.geometry.box], loaded.case.brain)
    assert full_brain.sum() == loaded.case.brain.sum()


def test_zscores_are_centered_with_unit_width_in_the_brain() -> None:
    case = normalize.preprocess(make_volumes()).case
    for image in case.images.values():
        zscores = image[case.brain]
        assert np.median(zscores) == pytest.approx(0, abs=1e-3)
        assert np.median(np.abs(zscores)) * normalize.MAD_TO_STD == pytest.approx(1, rel=1e-3)
        assert not image[~case.brain].any()


def test_bright_tumour_hardly_changes_the_scale() -> None:
    images = make_patient()
    brain = images["t1"] > 0
    bright_image = images["t1"].copy()
    bright_image[images["seg"] > 0] *= 3

    plain, bright = normalize.robust_scale(images["t1"], brain), normalize.robust_scale(bright_image, brain)
    assert bright.center == pytest.approx(plain.center, rel=0.01)
    assert bright.width == pytest.approx(plain.width, rel=0.05)


def test_brain_is_the_largest_foreground_without_holes() -> None:
    array = np.full((20, 20, 20), -7.0, np.float32)
    array[4:16, 4:16, 4:16] = 5
    array[9:11, 9:11, 9:11] = -7  # fluid that was clipped to the background
    array[1, 1, 1] = 3  # a speck
    brain = normalize.find_brain(array)
    assert brain.sum() == 12**3
    assert brain[10, 10, 10]
    assert not brain[1, 1, 1]


def test_empty_image_is_refused() -> None:
    with pytest.raises(InputError, match="t1 holds no brain"):
        normalize.preprocess({"t1": Volume(np.zeros((30, 30, 30), np.float32), np.eye(4))})


def test_constant_contrast_is_refused() -> None:
    volumes = make_volumes()
    volumes["t2"] = volumes["t2"].with_array((volumes["t1"].array > 0).astype(np.float32))
    with pytest.raises(InputError, match="t2 is constant"):
        normalize.preprocess(volumes)


def test_implausible_intensity_is_refused() -> None:
    volumes = make_volumes()
    volumes["t2"].array[22, 26, 12] = 1e8
    with pytest.raises(InputError, match=r"t2 holds 1e\+08 in the brain, \d+ robust widths from its median"):
        normalize.preprocess(volumes)


def test_small_brain_gives_a_warning() -> None:
    assert any("the brain measures only" in warning for warning in warnings_of(make_volumes()))


def test_duplicate_contrast_gives_a_warning() -> None:
    volumes = make_volumes()
    warnings = warnings_of({**volumes, "t2": volumes["t1"]})
    assert any("t1 and t2 are the same image" in warning for warning in warnings)


def test_few_slices_give_a_warning() -> None:
    thin = {name: Volume(np.repeat(v.array[:, :, 10:11], 3, 2), LPS_AFFINE) for name, v in make_volumes().items()}
    assert any("only 3 axial slices" in warning for warning in warnings_of(thin))


def test_warnings_about_headers_name_the_contrasts() -> None:
    volumes = make_volumes()
    for name in ("t1", "t2"):
        volumes[name] = replace(volumes[name], header_warnings=("gives no orientation",))
    assert "the header of t1, t2 gives no orientation" in warnings_of(volumes)


def test_sides_are_unknown_without_the_orientation_of_the_source() -> None:
    volumes = make_volumes()
    assert normalize.preprocess(volumes).geometry.has_orientation
    volumes["t1"] = replace(volumes["t1"], has_orientation=False)
    assert not normalize.preprocess(volumes).geometry.has_orientation


def test_thick_slices_give_a_warning() -> None:
    thick = {name: Volume(v.array, LPS_AFFINE @ np.diag([1, 1, 5, 1])) for name, v in make_volumes().items()}
    assert any("1.00 x 1.00 x 5.00 mm" in warning for warning in warnings_of(thick))


def test_skull_gives_a_warning() -> None:
    head = Volume(np.random.default_rng(0).normal(100, 9, (90, 90, 90)).astype(np.float32), np.eye(4))
    assert any("skull" in warning for warning in warnings_of({"t1": head}))


def test_contrast_that_ends_within_the_brain_gives_a_warning() -> None:
    volumes = make_volumes()
    assert not any("cover" in warning for warning in warnings_of(volumes))

    volumes["flair"].array[:, :, :8] = 0
    (warning,) = (warning for warning in warnings_of(volumes) if "cover" in warning)
    brain = volumes["t1"].array > 0
    assert warning.startswith(f"flair does not cover {(brain[:, :, :8]).sum() / brain.sum():.0%} of the brain")
