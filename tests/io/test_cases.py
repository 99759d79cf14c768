import errno
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import CaseError, GeometryError, InputError
from dsdiff.io.cases import Case, discover_cases, load_volumes
from dsdiff.io.segmentation import tumour_mask
from tests.toy_data import LPS_AFFINE, make_patient, write_case


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize(
    ("names", "case", "contrasts"),
    [
        (["A/A_t1.nii.gz", "A/A_t1ce.nii.gz", "A/A_t2.nii.gz", "A/A_flair.nii.gz", "A/A_seg.nii.gz"], "A", "flair seg t1 t1ce t2"),
        (["A/A-000-t1n.nii.gz", "A/A-000-t1c.nii.gz", "A/A-000-t2w.nii.gz", "A/A-000-t2f.nii.gz"], "A-000", "flair t1 t1ce t2"),
        (["sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_T2w.nii.gz",
          "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_ce-gadolinium_T1w.nii.gz"], "sub-01_ses-2", "flair t1 t1ce t2"),
        (["P7/T1.nii", "P7/T2.nii", "P7/FLAIR.nii"], "P7", "flair t1 t2"),
        (["P7/P7_T1.nii", "P7/P7_T2.nii", "P7/P7_T2_FLAIR.nii"], "P7", "flair t1 t2"),
        (["P7/T1.nii", "P7/T2.nii", "P7/T2-FLAIR.nii.gz", "P7/._T1.nii", ".trash/P7_t1.nii"], "P7", "flair t1 t2"),
        (["sub-01/anat/sub-01_T1w.nii.gz", "deriv/sub-01_desc-synthT1ce_T1w.nii.gz"], "sub-01", "t1"),
        (["sub-01_desc-synthstrip_T1w.nii.gz", "sub-01_desc-stdspace_T2w.nii.gz"], "sub-01", "t1 t2"),
    ],
)  # fmt: skip
def test_file_names_of_brats_and_bids(tmp_path, names, case, contrasts):
    (found_case,) = discover_cases(touch(tmp_path, *names))
    assert found_case.name == case
    assert " ".join(sorted(found_case.files)) == contrasts
    assert not found_case.duplicates


def test_cases_are_sorted_and_links_followed(tmp_path):
    touch(tmp_path / "elsewhere" / "B", "B_t1.nii.gz")
    touch(tmp_path / "cohort", "C/C_t1.nii.gz", "A/A_t1.nii.gz", "notes.txt", "A/other.nii.gz")
    (tmp_path / "cohort" / "B").symlink_to(tmp_path / "elsewhere" / "B")
    (tmp_path / "cohort" / "A" / "loop").symlink_to(tmp_path / "cohort")
    assert [case.name for case in discover_cases(tmp_path / "cohort")] == ["A", "B", "C"]


def test_no_case_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        discover_cases(tmp_path / "absent")
    (tmp_path / "P1_t1.nii").touch()
    with pytest.raises(InputError, match="is a file"):
        discover_cases(tmp_path / "P1_t1.nii")
    (tmp_path / "P1_t1.nii").unlink()
    with pytest.raises(InputError, match="_t1 _t2 _flair"):
        discover_cases(touch(tmp_path, "a.nii.gz", "readme.md"))
    with pytest.raises(InputError, match="it holds DICOM, which must be converted to NIfTI"):
        discover_cases(touch(tmp_path, "IM0001.dcm"))


def test_two_patients_of_one_name_raise(tmp_path):
    touch(tmp_path, "siteA/P1/P1_t1.nii.gz", "siteB/P1/P1_t1.nii.gz")
    with pytest.raises(InputError, match=r"more than one case named P1, in .*siteA.P1 and .*siteB.P1"):
        discover_cases(tmp_path)


def test_folder_per_contrast_raises(tmp_path):
    touch(tmp_path, "T1/P1_t1.nii.gz", "T2/P1_t2.nii.gz", "FLAIR/P1_flair.nii.gz")
    with pytest.raises(InputError, match=r"has a folder per contrast: files of P1 are in .*FLAIR and .*T1;"):
        discover_cases(tmp_path)


def test_segmentation_named_after_its_contrast(tmp_path):
    (case,) = discover_cases(touch(tmp_path, "P1/P1_t1.nii.gz", "P1/P1_t1_seg.nii.gz"))
    assert (case.name, sorted(case.files)) == ("P1", ["seg", "t1"])


@pytest.mark.parametrize(("value", "message"), [(77, "holds label 77"), (2, "fills 100% of the brain")])
def test_segmentation_without_tumour_labels_raises(value, message):
    brain = np.ones((4, 4, 4), bool)
    with pytest.raises(InputError, match=f"segmentation of P1 is not of a tumour: it {message}"):
        tumour_mask(np.full(brain.shape, value), brain, "P1")
    labels = np.where(np.arange(64).reshape(4, 4, 4) < 16, 4, 0)
    assert tumour_mask(labels, brain, "P1").sum() == 16


def test_two_files_of_one_contrast_raise(tmp_path):
    (case,) = discover_cases(touch(tmp_path, "P1/P1_t1.nii.gz", "P1/P1_t1.nii", "P1/P1_t2.nii.gz"))
    with pytest.raises(CaseError, match=r"more than one t1: .*P1_t1.nii and .*P1_t1.nii.gz"):
        load_volumes(case, ("t1", "t2"))


def test_missing_contrast_raises(case_folder):
    (case_folder / "P01_t2.nii.gz").unlink()
    (case,) = discover_cases(case_folder)
    with pytest.raises(CaseError, match=r"P01 has no t2 \(found: flair, seg, t1, t1ce"):
        load_volumes(case, ("t1", "t2", "flair"))


def test_different_grids_raise(case_folder):
    cropped = nib.Nifti1Image(make_patient()["t2"][:, :, :-1], LPS_AFFINE)
    nib.save(cropped, case_folder / "P01_t2.nii.gz")
    (case,) = discover_cases(case_folder)
    with pytest.raises(GeometryError, match=r"t2 is \(44, 52, 23\), t1 is \(44, 52, 24\) in case P01"):
        load_volumes(case, ("t1", "t2", "flair"))
    shifted = LPS_AFFINE.copy()
    shifted[2, 3] = 3
    nib.save(nib.Nifti1Image(make_patient()["t2"], shifted), case_folder / "P01_t2.nii.gz")
    with pytest.raises(GeometryError, match="t2 and t1 differ in position"):
        load_volumes(case, ("t1", "t2"))


@pytest.mark.parametrize(("value", "is_valid"), [(2.00003, True), (2.4, False)])
def test_labels_are_rounded_within_tolerance(tmp_path, value, is_valid):
    folder = write_case(tmp_path, "P0")
    file = folder / "P0_seg.nii.gz"
    labels = nib.load(file).get_fdata().astype(np.float32)
    labels[labels == 4] = value
    nib.save(nib.Nifti1Image(labels, LPS_AFFINE), file)
    (case,) = discover_cases(folder)
    if is_valid:
        assert set(np.unique(load_volumes(case, ("seg",))["seg"].array)) == {0, 2}
        return
    with pytest.raises(InputError, match=r"P0_seg\.nii\.gz is not a segmentation: it holds 2\.4"):
        load_volumes(case, ("seg",))


def test_grid_with_permuted_axes_is_the_same_grid(case_folder):
    image = nib.load(case_folder / "P01_t2.nii.gz")
    nib.save(image.as_reoriented(nib.orientations.axcodes2ornt("SAR")), case_folder / "P01_t2.nii.gz")
    (case,) = discover_cases(case_folder)
    assert load_volumes(case, ("t1", "t2"))["t2"].shape == (24, 52, 44)


def test_case_from_explicit_files(tmp_path):
    folder = write_case(tmp_path, "Q")
    volumes = load_volumes(Case("any", {"t1": folder / "Q_t1.nii.gz"}), ("t1",))
    assert np.array_equal(volumes["t1"].array, make_patient()["t1"].astype(np.int16))


@pytest.mark.parametrize(("name", "label"), [("BraTS-GLI-00027-000", 1), ("BraTS2021_00027", 4), ("P01", 4)])
def test_resection_cavity_is_not_enhancing_tumour(tmp_path, name, label):
    write_case(tmp_path, name)
    (case,) = discover_cases(tmp_path)
    assert np.unique(load_volumes(case, ("seg",))["seg"].array).tolist() == [0, label]


def test_pediatric_labels_of_2024_raise(tmp_path):
    write_case(tmp_path, "BraTS-PED-00027-000")
    (case,) = discover_cases(tmp_path)
    with pytest.raises(InputError, match="uses other labels since 2024"):
        load_volumes(case, ("seg",))


def test_unreadable_folder_raises(tmp_path, monkeypatch):
    write_case(tmp_path, "P01"), write_case(tmp_path, "P02")
    scandir = os.scandir

    def deny_access(path):
        if Path(path).name == "P02":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny_access)  # root can read a folder of any mode
    with pytest.raises(InputError, match=r"P02 cannot be read \(Permission denied\)"):
        discover_cases(tmp_path)
