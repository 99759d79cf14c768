import gzip

import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import GeometryError, InputError
from dsdiff.io import nifti
from dsdiff.volume import Volume

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, 0.1, -0.3) @ np.diag([0.9, 1.1, 2.0]), [-80.5, 40.25, -33]
)


def saved(tmp_path, array, affine=OBLIQUE, codes=(1, 2), image_class=nib.Nifti1Image, name="a.nii.gz"):
    image = image_class(array, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header["descrip"] = b"DOE^JANE"
    if "data_type" in image.header.structarr.dtype.names:
        image.header["data_type"] = b"DOE^JANE"
    nib.save(image, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2", ">f4"])
def test_any_dtype_is_read(tmp_path, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    assert np.array_equal(nifti.read(saved(tmp_path, array)).array, array.astype(np.float32))


def test_slope_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii")
    stored = nib.load(tmp_path / "a.nii").dataobj
    assert stored.slope == 0.5
    assert np.allclose(nifti.read(tmp_path / "a.nii").array, np.asarray(stored))


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (1, 1), (3, 4)])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_geometry_comes_back_bit_for_bit(tmp_path, codes, image_class):
    path = saved(tmp_path, np.ones((3, 4, 5), np.int16), codes=codes, image_class=image_class)
    volume = nifti.read(path)
    nifti.write(volume.with_array(np.zeros((3, 4, 5), np.float32)), tmp_path / "b.nii.gz", "synthetic")
    before, after = nib.load(path), nib.load(tmp_path / "b.nii.gz")
    assert np.array_equal(before.affine, after.affine)
    for field in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "pixdim"):
        assert np.array_equal(before.header[field], after.header[field]), field
    assert type(after) is image_class
    assert after.get_data_dtype() == np.float32


def test_free_text_is_replaced(tmp_path):
    volume = nifti.read(saved(tmp_path, np.ones((3, 4, 5), np.int16)))
    nifti.write(volume, tmp_path / "b.nii.gz", "synthetic " * 20)
    raw = gzip.decompress((tmp_path / "b.nii.gz").read_bytes())
    assert b"JANE" not in raw
    assert nib.load(tmp_path / "b.nii.gz").header["descrip"].item().startswith(b"synthetic")


def test_a_unit_of_length_that_nobody_defined_becomes_mm(tmp_path):
    path = saved(tmp_path, np.ones((3, 4, 5), np.int16), name="a.nii")
    image = nib.load(path)
    image.header["xyzt_units"] = 14
    nib.save(image, path)
    nifti.write(nifti.read(path), tmp_path / "b.nii.gz")
    assert nib.load(tmp_path / "b.nii.gz").header.get_xyzt_units()[0] == "mm"


def test_the_same_volume_gives_the_same_bytes(tmp_path):
    volume = Volume(np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32), OBLIQUE)
    for name in ("first.nii.gz", "second.nii.gz"):
        nifti.write(volume, tmp_path / name)
    assert (tmp_path / "first.nii.gz").read_bytes() == (tmp_path / "second.nii.gz").read_bytes()


def test_a_volume_without_header_gets_both_forms(tmp_path):
    nifti.write(Volume(np.ones((4, 5, 6), np.float32), OBLIQUE), tmp_path / "a.nii.gz")
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (header["qform_code"], header["sform_code"]) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert np.allclose(nifti.read(tmp_path / "a.nii.gz").affine, OBLIQUE, atol=1e-5)


def test_bad_files_are_named(tmp_path):
    good = saved(tmp_path, np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    (tmp_path / "torn.nii.gz").write_bytes(good.read_bytes()[:4000])
    packed = bytearray(good.read_bytes())
    packed[len(packed) // 2] ^= 8
    (tmp_path / "flipped.nii.gz").write_bytes(packed)
    (tmp_path / "unsealed.nii.gz").write_bytes(good.read_bytes()[:-5])
    (tmp_path / "text.nii.gz").write_text("hello")
    (tmp_path / "empty.nii").write_bytes(b"")
    nib.save(nib.load(good), tmp_path / "whole.nii")
    raw = (tmp_path / "whole.nii").read_bytes()
    (tmp_path / "short.nii").write_bytes(raw[:-100])
    (tmp_path / "datatype.nii").write_bytes(raw[:70] + b"\x4d\x00" + raw[72:])
    (tmp_path / "negative.nii").write_bytes(raw[:42] + b"\xff\xff" + raw[44:])
    damaged = ("torn.nii.gz", "flipped.nii.gz", "unsealed.nii.gz", "text.nii.gz", "empty.nii", "short.nii")
    for name in (*damaged, "datatype.nii", "negative.nii"):
        with pytest.raises(InputError, match=name):
            nifti.read(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        nifti.read(tmp_path / "absent.nii.gz")


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 4, 5, 2), np.float32), "4-D"),
        (np.zeros((3, 4), np.float32), "2-D"),
        (np.zeros((3, 4, 5), np.complex64), "complex"),
        (np.full((3, 4, 5), np.nan, np.float32), "60 NaN"),
        (np.full((3, 4, 5), np.inf, np.float32), "infinite"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, array, says):
    with pytest.raises(InputError, match=says):
        nifti.read(saved(tmp_path, array, np.eye(4)))


def test_an_affine_that_cannot_be_inverted_is_refused(tmp_path):
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
    image.header["sform_code"], image.header["srow_x"] = 1, 0
    nib.save(nib.Nifti1Image(image.get_fdata(), None, image.header), tmp_path / "flat.nii")
    with pytest.raises(GeometryError, match="flat"):
        nifti.read(tmp_path / "flat.nii")


@pytest.mark.parametrize(("codes", "told"), [((0, 0), False), ((1, 0), True), ((0, 2), True)])
def test_an_orientation_that_nobody_told_is_a_guess(tmp_path, codes, told):
    assert nifti.read(saved(tmp_path, np.zeros((2, 3, 4), np.int16), codes=codes)).oriented is told


def test_a_header_that_asks_for_more_than_any_scan_is_refused_unread(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "huge.nii").write_bytes(header.binaryblock + bytes(4))
    with pytest.raises(InputError, match="8000000000 voxels; no MRI has more than"):
        nifti.read(tmp_path / "huge.nii")
