import gzip

import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import GeometryError, InputError
from dsdiff.io.nifti import read_nifti, write_nifti
from dsdiff.volume import Volume

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, 0.1, -0.3) @ np.diag([0.9, 1.1, 2.0]), [-80.5, 40.25, -33]
)


def save_image(tmp_path, array, affine=OBLIQUE, codes=(1, 2), image_class=nib.Nifti1Image, name="a.nii.gz"):
    image = image_class(array, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header["descrip"] = b"DOE^JANE"
    if "data_type" in image.header.structarr.dtype.names:
        image.header["data_type"] = b"DOE^JANE"
    nib.save(image, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2", ">f4"])
def test_read_any_dtype(tmp_path, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    assert np.array_equal(read_nifti(save_image(tmp_path, array)).array, array.astype(np.float32))


def test_slope_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii")
    stored = nib.load(tmp_path / "a.nii").dataobj
    assert stored.slope == 0.5
    assert np.allclose(read_nifti(tmp_path / "a.nii").array, np.asarray(stored))


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (1, 1), (3, 4)])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_geometry_survives_a_round_trip_bit_for_bit(tmp_path, codes, image_class):
    path = save_image(tmp_path, np.ones((3, 4, 5), np.int16), codes=codes, image_class=image_class)
    volume = read_nifti(path)
    write_nifti(volume.with_array(np.zeros((3, 4, 5), np.float32)), tmp_path / "b.nii.gz", "synthetic")
    original, rewritten = nib.load(path), nib.load(tmp_path / "b.nii.gz")
    assert np.array_equal(original.affine, rewritten.affine)
    for field in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "srow_x", "pixdim"):
        assert np.array_equal(original.header[field], rewritten.header[field]), field
    assert type(rewritten) is image_class
    assert rewritten.get_data_dtype() == np.float32


def test_free_text_of_the_header_is_dropped(tmp_path):
    volume = read_nifti(save_image(tmp_path, np.ones((3, 4, 5), np.int16)))
    write_nifti(volume, tmp_path / "b.nii.gz", "synthetic " * 20)
    raw = gzip.decompress((tmp_path / "b.nii.gz").read_bytes())
    assert b"JANE" not in raw
    assert nib.load(tmp_path / "b.nii.gz").header["descrip"].item().startswith(b"synthetic")


def test_undefined_unit_of_length_becomes_mm(tmp_path):
    path = save_image(tmp_path, np.ones((3, 4, 5), np.int16), name="a.nii")
    image = nib.load(path)
    image.header["xyzt_units"] = 14
    nib.save(image, path)
    write_nifti(read_nifti(path), tmp_path / "b.nii.gz")
    assert nib.load(tmp_path / "b.nii.gz").header.get_xyzt_units()[0] == "mm"


def test_equal_volumes_give_equal_bytes(tmp_path):
    volume = Volume(np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32), OBLIQUE)
    for name in ("first.nii.gz", "second.nii.gz"):
        write_nifti(volume, tmp_path / name)
    assert (tmp_path / "first.nii.gz").read_bytes() == (tmp_path / "second.nii.gz").read_bytes()


def test_volume_without_header_gets_qform_and_sform(tmp_path):
    write_nifti(Volume(np.ones((4, 5, 6), np.float32), OBLIQUE), tmp_path / "a.nii.gz")
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (header["qform_code"], header["sform_code"]) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert np.allclose(read_nifti(tmp_path / "a.nii.gz").affine, OBLIQUE, atol=1e-5)


def test_damaged_files_raise(tmp_path):
    good = save_image(tmp_path, np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    (tmp_path / "truncated.nii.gz").write_bytes(good.read_bytes()[:4000])
    flipped = bytearray(good.read_bytes())
    flipped[len(flipped) // 2] ^= 8
    (tmp_path / "flipped.nii.gz").write_bytes(flipped)
    (tmp_path / "no-checksum.nii.gz").write_bytes(good.read_bytes()[:-5])
    (tmp_path / "text.nii.gz").write_text("hello")
    (tmp_path / "empty.nii").write_bytes(b"")
    nib.save(nib.load(good), tmp_path / "unpacked.nii")
    raw = (tmp_path / "unpacked.nii").read_bytes()
    (tmp_path / "short.nii").write_bytes(raw[:-100])
    (tmp_path / "datatype.nii").write_bytes(raw[:70] + b"\x4d\x00" + raw[72:])
    (tmp_path / "negative.nii").write_bytes(raw[:42] + b"\xff\xff" + raw[44:])
    damaged = ("truncated.nii.gz", "flipped.nii.gz", "no-checksum.nii.gz", "text.nii.gz", "empty.nii", "short.nii")
    for name in (*damaged, "datatype.nii", "negative.nii"):
        with pytest.raises(InputError, match=name):
            read_nifti(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_nifti(tmp_path / "absent.nii.gz")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4, 5, 2), np.float32), "4-D"),
        (np.zeros((3, 4), np.float32), "2-D"),
        (np.zeros((3, 4, 5), np.complex64), "complex"),
        (np.full((3, 4, 5), np.nan, np.float32), "60 NaN"),
        (np.full((3, 4, 5), np.inf, np.float32), "infinite"),
    ],
)
def test_unsupported_arrays_raise(tmp_path, array, message):
    with pytest.raises(InputError, match=message):
        read_nifti(save_image(tmp_path, array, np.eye(4)))


def test_singular_affine_raises(tmp_path):
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
    image.header["sform_code"], image.header["srow_x"] = 1, 0
    nib.save(nib.Nifti1Image(image.get_fdata(), None, image.header), tmp_path / "flat.nii")
    with pytest.raises(GeometryError, match="flat"):
        read_nifti(tmp_path / "flat.nii")


@pytest.mark.parametrize(("codes", "has_orientation"), [((0, 0), False), ((1, 0), True), ((0, 2), True)])
def test_orientation_needs_a_qform_or_sform_code(tmp_path, codes, has_orientation):
    assert (
        read_nifti(save_image(tmp_path, np.zeros((2, 3, 4), np.int16), codes=codes)).has_orientation is has_orientation
    )


def test_huge_header_raises_before_reading(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header.set_data_dtype(np.int16)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "huge.nii").write_bytes(header.binaryblock + bytes(4))
    with pytest.raises(InputError, match="8000000000 voxels; no MRI has more than"):
        read_nifti(tmp_path / "huge.nii")
