import bz2
import gzip
import zipfile

import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import InputError
from dsdiff.io.cases import file_hash
from dsdiff.io.nifti import read_nifti

ARRAY = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"


def nifti_bytes(array=ARRAY):
    return nib.Nifti1Image(array, np.eye(4)).to_bytes()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "a"])
def test_content_not_suffix_tells_whether_a_file_is_compressed(tmp_path, name, compress):
    (tmp_path / name).write_bytes(compress(nifti_bytes()))
    assert np.array_equal(read_nifti(tmp_path / name).array, ARRAY)


def test_a_nifti2_file_is_read_whatever_its_suffix(tmp_path):
    (tmp_path / "a.nii").write_bytes(gzip.compress(nib.Nifti2Image(ARRAY, np.eye(4)).to_bytes()))
    assert np.array_equal(read_nifti(tmp_path / "a.nii").array, ARRAY)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.nii.gz", LFS_POINTER, "git-lfs pointer.* git lfs pull"),
        ("a.nii", LFS_POINTER, "git-lfs pointer.* git lfs pull"),
        ("a.nii.gz", b"/annex/objects/MD5E-s9--0.nii.gz\n", "git-annex pointer.* git annex get"),
        ("a.nii", bytes(128) + b"DICM" + bytes(500), "DICOM.* dcm2niix"),
        ("a.nii.gz", gzip.compress(bytes(128) + b"DICM" + bytes(500)), "DICOM.* dcm2niix"),
        ("a.nii", b"\x08\x00\x05\x00" + bytes(600), "DICOM.* dcm2niix"),
        ("a.dcm", b"\x02\x00\x00\x00\xff" + bytes(600), "DICOM.* dcm2niix"),
        ("a.nii.gz", b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page.* download it again"),
        ("a.nii.gz", b"<html>404</html>", "web page"),
        ("a.nii.gz", b"", "is empty.* copy or download it again"),
        ("a.nii", b"", "is empty"),
        ("a.nii.gz", gzip.compress(b""), "is empty"),
        ("a.nii", bytes(2000), "is filled with zeros"),
        ("a.nii.gz", b"hello\n", "is a text file"),
        ("a.nii.gz", gzip.compress(gzip.compress(nifti_bytes())), "gzipped twice.* gzip -dc"),
        ("a.nii.gz", b"\x89PNG" + bytes(600), "PNG picture"),
        ("a.nii.gz", b"\x00\x00\x00\x01" + bytes(600), "FreeSurfer.* mri_convert"),
        ("a.nii", b"\x5c\x01\x00\x00" + bytes(600), "Analyze file"),
        ("a.nii", b"\x17\x99\xaf" * 300, "does not begin with a NIfTI header"),
    ],
)
def test_a_file_of_another_format_is_named_with_a_remedy(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} .*{message}"):
        read_nifti(tmp_path / name)


@pytest.mark.parametrize("image_class", [nib.Nifti1Pair, nib.Spm2AnalyzeImage])
@pytest.mark.parametrize("suffix", [".hdr", ".img"])
def test_one_file_of_a_pair_names_the_conversion(tmp_path, suffix, image_class):
    nib.save(image_class(ARRAY, np.eye(4)), tmp_path / "a.img")
    with pytest.raises(InputError, match=r"pair \(\.hdr and \.img\).*nib-convert .*a\.hdr .*a\.nii\.gz"):
        read_nifti(tmp_path / f"a{suffix}")


def test_a_zip_archive_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.nii", "w") as archive:
        archive.writestr("image.nii", nifti_bytes())
    with pytest.raises(InputError, match="zip archive"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("read", [read_nifti, file_hash])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../.git/annex/objects/x/y/MD5E-s9--0.nii.gz", "git-annex link whose content is not on this machine; .*get"),
        ("/data/gone.nii.gz", "is a link to /data/gone.nii.gz, and there is no such file"),
    ],
)
def test_a_link_without_content_is_named(tmp_path, read, target, message):
    (tmp_path / "a b.nii.gz").symlink_to(target)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a b.nii.gz")


def test_a_link_with_content_is_read(tmp_path):
    annexed = tmp_path / ".git" / "annex" / "objects" / "MD5E-s9--0.nii.gz"
    annexed.parent.mkdir(parents=True)
    annexed.write_bytes(gzip.compress(nifti_bytes()))
    (tmp_path / "a.nii.gz").symlink_to(annexed)
    assert np.array_equal(read_nifti(tmp_path / "a.nii.gz").array, ARRAY)


def test_a_folder_is_not_an_image(tmp_path):
    (tmp_path / "a.nii").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("rest", [b"garbage", b"\n", LFS_POINTER])
def test_bytes_behind_the_gzip_stream_raise(tmp_path, rest):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(nifti_bytes()) + rest)
    with pytest.raises(InputError, match=r"behind the end of its gzip stream.* gzip -dc"):
        read_nifti(tmp_path / "a.nii.gz")


def test_zeros_behind_the_gzip_stream_and_several_members_are_read(tmp_path):
    content = nifti_bytes()
    (tmp_path / "zeros.nii.gz").write_bytes(gzip.compress(content) + bytes(512))
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(content[:360]) + gzip.compress(content[360:]))
    for name in ("zeros.nii.gz", "members.nii.gz"):
        assert np.array_equal(read_nifti(tmp_path / name).array, ARRAY)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_truncated_file_is_named_as_cut_off(tmp_path, compress):
    array = np.random.default_rng(0).normal(size=(9, 9, 9))
    (tmp_path / "a.nii").write_bytes(compress(nifti_bytes(array))[:-100])
    with pytest.raises(InputError, match=r"is cut off .*; copy or download it again"):
        read_nifti(tmp_path / "a.nii")
