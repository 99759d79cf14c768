import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import GeometryError, InputError
from dsdiff.io.nifti import read_nifti, write_nifti

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
LPS = np.diag([-1.0, -1, 1, 1])
ROTATED = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.1, -0.3) @ np.diag([0.9, 1.1, 2.0]), [-80, 40, 3])


def read(tmp_path, change=None, sform=ROTATED, qform=ROTATED, codes=(1, 1), array=ARRAY):
    """Save an image, change fields of its header (name -> value) as bytes, read it."""
    image = nib.Nifti1Image(array, None)
    image.header.set_xyzt_units("mm")
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    path = tmp_path / "a.nii"
    nib.save(image, path)

    header = image.header.structarr.copy()
    header["magic"], header["vox_offset"] = b"n+1", 352
    for name, value in (change or {}).items():
        header[name] = value
    path.write_bytes(header.tobytes() + path.read_bytes()[348:])
    return read_nifti(path)


def test_equal_forms_give_no_warning(tmp_path):
    volume = read(tmp_path)
    assert volume.header_warnings == ()
    assert volume.has_orientation
    assert np.allclose(volume.affine, ROTATED, atol=1e-5)


def test_absent_codes_give_a_warning(tmp_path):
    volume = read(tmp_path, codes=(0, 0))
    assert volume.header_warnings == ("gives no orientation: left and right are a guess",)
    assert not volume.has_orientation


@pytest.mark.parametrize(("unit", "factor", "name"), [(3, 0.001, "micron"), (1, 1000, "metre")])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_lengths_in_micron_and_metre_are_converted_to_mm(tmp_path, unit, factor, name, codes):
    scaled = np.diag([1 / factor] * 3 + [1]) @ ROTATED
    volume = read(tmp_path, {"xyzt_units": unit + 8}, scaled, scaled, codes)
    assert np.allclose(volume.spacing, [0.9, 1.1, 2], rtol=1e-5)
    assert volume.header_warnings[0] == f"gives {name} as unit; lengths were converted to mm"
    assert all(codes) or not any("differ" in warning for warning in volume.header_warnings)
    if any(codes):
        assert np.allclose(volume.affine, ROTATED, atol=1e-4)


@pytest.mark.parametrize("unit", [1, 3])
def test_a_unit_that_fits_no_head_is_not_believed(tmp_path, unit):
    volume = read(tmp_path, {"xyzt_units": unit})
    assert np.allclose(volume.affine, ROTATED, atol=1e-5)
    assert "fits no head with voxels of 0.9 x 1.1 x 2; mm was taken" in volume.header_warnings[0]


@pytest.mark.parametrize("unit", [0, 2, 5])
def test_mm_and_undefined_units_are_mm_without_a_warning(tmp_path, unit):
    assert read(tmp_path, {"xyzt_units": unit}).header_warnings == ()


def test_units_of_the_file_survive_a_round_trip(tmp_path):
    scaled = np.diag([1000, 1000, 1000, 1]) @ ROTATED
    volume = read(tmp_path, {"xyzt_units": 3}, scaled, scaled)
    write_nifti(volume, tmp_path / "b.nii")
    assert nib.load(tmp_path / "b.nii").header.get_xyzt_units()[0] == "micron"
    assert np.array_equal(read_nifti(tmp_path / "b.nii").affine, volume.affine)


@pytest.mark.parametrize("form", [LPS, ROTATED, nib.affines.from_matvec(np.eye(3)[[2, 0, 1]])])
def test_forms_that_disagree_on_left_and_right_hide_the_sides(tmp_path, form):
    volume = read(tmp_path, sform=form, qform=np.diag([-1, 1, 1, 1]) @ form)
    (warning,) = volume.header_warnings
    assert "disagree on left and right; the sform was taken, L and R are not drawn" in warning
    assert not volume.has_orientation
    assert np.allclose(volume.affine, form, atol=1e-5)


def test_forms_that_disagree_on_front_and_back_keep_the_sides(tmp_path):
    volume = read(tmp_path, sform=LPS, qform=np.diag([1, -1, 1, 1]) @ LPS)
    assert volume.header_warnings == ("gives qform and sform that disagree on front and back; the sform was taken",)
    assert volume.has_orientation


@pytest.mark.parametrize("codes", [(1, 0), (0, 1)])
def test_a_form_without_a_code_is_not_compared(tmp_path, codes):
    volume = read(tmp_path, sform=LPS, qform=np.diag([-1, 1, 1, 1]) @ LPS, codes=codes)
    assert volume.header_warnings == ()
    assert volume.has_orientation


def test_forms_at_different_positions_give_a_warning(tmp_path):
    shifted = LPS.copy()
    shifted[:3, 3] = 3, 4, 0
    warnings = read(tmp_path, sform=LPS, qform=shifted).header_warnings
    assert warnings == ("gives qform and sform that differ by up to 5.0 mm; the sform was taken",)
    shifted[:3, 3] = 0.3, 0.4, 0
    assert read(tmp_path, sform=LPS, qform=shifted).header_warnings == ()


@pytest.mark.parametrize("codes", [(1, 1), (0, 2)])
def test_sform_columns_that_disagree_with_pixdim_give_a_warning(tmp_path, codes):
    volume = read(tmp_path, {"pixdim": [1, 1, 1, 5, 0, 0, 0, 0]}, LPS, LPS, codes)
    assert volume.header_warnings == (
        "gives voxels of 1 x 1 x 1 mm by sform, 1 x 1 x 5 by pixdim; the sform was taken",
    )
    assert np.allclose(volume.spacing, 1)


@pytest.mark.parametrize("rows", [{"srow_x": 0, "srow_y": 0, "srow_z": 0}, {"srow_y": 0}, {"srow_z": np.nan}])
def test_an_unusable_sform_beside_a_qform_gives_the_qform(tmp_path, rows):
    volume = read(tmp_path, rows)
    assert np.allclose(volume.affine, ROTATED, atol=1e-5)
    assert volume.header_warnings[0].endswith("the qform was taken")
    assert volume.has_orientation

    write_nifti(volume, tmp_path / "b.nii")
    assert np.allclose(nib.load(tmp_path / "b.nii").affine, ROTATED, atol=1e-5)


def test_an_unusable_sform_without_a_qform_raises(tmp_path):
    with pytest.raises(GeometryError, match="invertible"):
        read(tmp_path, {"srow_x": 0}, codes=(0, 1))


@pytest.mark.parametrize("shape", [(3, 4, 5, 1), (3, 4, 5, 1, 1)])
def test_trailing_axes_of_length_1_are_dropped(tmp_path, shape):
    volume = read(tmp_path, array=ARRAY.reshape(shape))
    assert np.array_equal(volume.array, ARRAY)
    write_nifti(volume, tmp_path / "b.nii")
    assert nib.load(tmp_path / "b.nii").shape == (3, 4, 5)


def test_several_volumes_raise(tmp_path):
    with pytest.raises(InputError, match="is 4-D"):
        read(tmp_path, array=np.zeros((3, 4, 5, 2), np.int16))


@pytest.mark.parametrize("quaternion", [(0.6, 0.8, 0.001), (0, 1.00001, 0), (0, 0, 1.001)])
def test_a_quaternion_rounded_above_length_1_is_scaled(tmp_path, quaternion):
    b, c, d = quaternion
    volume = read(tmp_path, {"quatern_b": b, "quatern_c": c, "quatern_d": d}, codes=(1, 0))
    unit = np.array(quaternion) / np.linalg.norm(quaternion)
    rotation = 2 * np.outer(unit, unit) - np.eye(3)  # of a quaternion (0, b, c, d): half a turn
    assert np.allclose(volume.affine[:3, :3], rotation * [0.9, 1.1, 2], atol=1e-5)
    assert volume.header_warnings == ()

    write_nifti(volume, tmp_path / "b.nii")
    assert np.allclose(nib.load(tmp_path / "b.nii").affine, volume.affine, atol=1e-5)


def test_a_quaternion_far_from_length_1_raises_without_an_sform(tmp_path):
    with pytest.raises(InputError, match="qform that is no rotation"):
        read(tmp_path, {"quatern_b": 1.3}, codes=(1, 0))
    assert np.allclose(read(tmp_path, {"quatern_b": 1.3}).affine, ROTATED, atol=1e-5)
