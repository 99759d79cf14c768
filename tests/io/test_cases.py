import errno
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import CaseError, GeometryError, InputError
from dsdiff.io import cases
from dsdiff.io import segmentation as labels
from dsdiff.io.cases import Case
from tests.toy_data import LPS, patient, write_case


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
def test_the_names_of_the_field_are_known(tmp_path, names, case, contrasts):
    (found,) = cases.discover(touch(tmp_path, *names))
    assert found.name == case
    assert " ".join(sorted(found.files)) == contrasts
    assert not found.doubles


def test_many_cases_are_sorted_and_links_followed(tmp_path):
    touch(tmp_path / "elsewhere" / "B", "B_t1.nii.gz")
    touch(tmp_path / "cohort", "C/C_t1.nii.gz", "A/A_t1.nii.gz", "notes.txt", "A/other.nii.gz")
    (tmp_path / "cohort" / "B").symlink_to(tmp_path / "elsewhere" / "B")
    (tmp_path / "cohort" / "A" / "loop").symlink_to(tmp_path / "cohort")
    assert [case.name for case in cases.discover(tmp_path / "cohort")] == ["A", "B", "C"]


def test_no_case_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        cases.discover(tmp_path / "absent")
    (tmp_path / "P1_t1.nii").touch()
    with pytest.raises(InputError, match="is a file"):
        cases.discover(tmp_path / "P1_t1.nii")
    (tmp_path / "P1_t1.nii").unlink()
    with pytest.raises(InputError, match="_t1 _t2 _flair"):
        cases.discover(touch(tmp_path, "a.nii.gz", "readme.md"))
    with pytest.raises(InputError, match="it holds DICOM, which has to be turned into NIfTI"):
        cases.discover(touch(tmp_path, "IM0001.dcm"))


def test_one_name_for_two_patients_is_an_error(tmp_path):
    touch(tmp_path, "siteA/P1/P1_t1.nii.gz", "siteB/P1/P1_t1.nii.gz")
    with pytest.raises(InputError, match=r"more than one case by the name P1, in .*siteA.P1 and .*siteB.P1"):
        cases.discover(tmp_path)


def test_a_cohort_laid_out_by_contrast_is_told_from_two_patients(tmp_path):
    touch(tmp_path, "T1/P1_t1.nii.gz", "T2/P1_t2.nii.gz", "FLAIR/P1_flair.nii.gz")
    with pytest.raises(InputError, match=r"holds the contrasts of P1 in folders of their own, as .*FLAIR and .*T1;"):
        cases.discover(tmp_path)


def test_a_segmentation_drawn_on_a_contrast_is_the_patients(tmp_path):
    (case,) = cases.discover(touch(tmp_path, "P1/P1_t1.nii.gz", "P1/P1_t1_seg.nii.gz"))
    assert (case.name, sorted(case.files)) == ("P1", ["seg", "t1"])


@pytest.mark.parametrize(("value", "says"), [(77, "holds label 77"), (2, "fills 100% of the brain")])
def test_a_segmentation_of_something_else_is_none_of_a_tumour(value, says):
    brain = np.ones((4, 4, 4), bool)
    with pytest.raises(InputError, match=f"segmentation of P1 is none of a tumour: it {says}"):
        labels.tumour(np.full(brain.shape, value), brain, "P1")
    some = np.where(np.arange(64).reshape(4, 4, 4) < 16, 4, 0)
    assert labels.tumour(some, brain, "P1").sum() == 16


def test_two_files_for_one_contrast_are_an_error(tmp_path):
    (case,) = cases.discover(touch(tmp_path, "P1/P1_t1.nii.gz", "P1/P1_t1.nii", "P1/P1_t2.nii.gz"))
    with pytest.raises(CaseError, match=r"more than one t1: .*P1_t1.nii and .*P1_t1.nii.gz"):
        cases.load(case, ("t1", "t2"))


def test_a_missing_contrast_is_named(case_folder):
    (case_folder / "P01_t2.nii.gz").unlink()
    (case,) = cases.discover(case_folder)
    with pytest.raises(CaseError, match=r"P01 has no t2 \(found: flair, seg, t1, t1ce"):
        cases.load(case, ("t1", "t2", "flair"))


def test_different_grids_are_named_both(case_folder):
    other = nib.Nifti1Image(patient()["t2"][:, :, :-1], LPS)
    nib.save(other, case_folder / "P01_t2.nii.gz")
    (case,) = cases.discover(case_folder)
    with pytest.raises(GeometryError, match=r"t2 is \(44, 52, 23\), t1 is \(44, 52, 24\) in case P01"):
        cases.load(case, ("t1", "t2", "flair"))
    shifted = LPS.copy()
    shifted[2, 3] = 3
    nib.save(nib.Nifti1Image(patient()["t2"], shifted), case_folder / "P01_t2.nii.gz")
    with pytest.raises(GeometryError, match="t2 and t1 lie at different places"):
        cases.load(case, ("t1", "t2"))


@pytest.mark.parametrize(("middle", "usable"), [(2.00003, True), (2.4, False)])
def test_labels_are_whole_numbers_however_they_are_stored(tmp_path, middle, usable):
    folder = write_case(tmp_path, "P0")
    file = folder / "P0_seg.nii.gz"
    labels = nib.load(file).get_fdata().astype(np.float32)
    labels[labels == 4] = middle
    nib.save(nib.Nifti1Image(labels, LPS), file)
    (case,) = cases.discover(folder)
    if usable:
        assert set(np.unique(cases.load(case, ("seg",))["seg"].array)) == {0, 2}
        return
    with pytest.raises(InputError, match=r"P0_seg\.nii\.gz is no segmentation: it holds 2\.4"):
        cases.load(case, ("seg",))


def test_the_same_grid_stored_in_other_axes_is_the_same_grid(case_folder):
    image = nib.load(case_folder / "P01_t2.nii.gz")
    nib.save(image.as_reoriented(nib.orientations.axcodes2ornt("SAR")), case_folder / "P01_t2.nii.gz")
    (case,) = cases.discover(case_folder)
    assert cases.load(case, ("t1", "t2"))["t2"].shape == (24, 52, 44)


def test_explicit_files_make_a_case(tmp_path):
    folder = write_case(tmp_path, "Q")
    loaded = cases.load(Case("any", {"t1": folder / "Q_t1.nii.gz"}), ("t1",))
    assert np.array_equal(loaded["t1"].array, patient()["t1"].astype(np.int16))


@pytest.mark.parametrize(("name", "label"), [("BraTS-GLI-00027-000", 1), ("BraTS2021_00027", 4), ("P01", 4)])
def test_a_resection_cavity_is_no_enhancing_tumour(tmp_path, name, label):
    write_case(tmp_path, name)
    (case,) = cases.discover(tmp_path)
    assert np.unique(cases.load(case, ("seg",))["seg"].array).tolist() == [0, label]


def test_childrens_labels_of_2024_are_not_taken_for_adults(tmp_path):
    write_case(tmp_path, "BraTS-PED-00027-000")
    (case,) = cases.discover(tmp_path)
    with pytest.raises(InputError, match="numbers tissues otherwise since 2024"):
        cases.load(case, ("seg",))


def test_a_folder_that_cannot_be_read_hides_no_patient(tmp_path, monkeypatch):
    write_case(tmp_path, "P01"), write_case(tmp_path, "P02")
    scan = os.scandir

    def refused(place):
        if Path(place).name == "P02":
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refused)  # root may read whatever its mode says
    with pytest.raises(InputError, match=r"P02 cannot be read \(Permission denied\)"):
        cases.discover(tmp_path)
