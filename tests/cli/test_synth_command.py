"""dsdiff synth as a user runs it: the files that it writes, repeated runs, and --resume."""

import json

import nibabel as nib
import numpy as np
import torch

from tests.toy_data import LPS_AFFINE, list_tree, make_patient, write_case


def test_synth_writes_volumes_preview_and_provenance(cli, case_folder, model_folder, tmp_path):
    code, printed = cli(
        "synth", case_folder, "-o", tmp_path / "out", "--model", model_folder, "--samples", 2, "--seed", 3
    )
    assert code == 0, printed
    out = tmp_path / "out" / "P01"
    assert list_tree(out) == {
        "P01_desc-synthT1ce_T1w.nii.gz",
        "P01_desc-stdT1ce_T1w.nii.gz",
        "preview.png",
        "provenance.json",
    }
    t1, t1ce = nib.load(case_folder / "P01_t1.nii.gz"), nib.load(out / "P01_desc-synthT1ce_T1w.nii.gz")
    assert t1ce.shape == t1.shape
    assert np.array_equal(t1ce.affine, t1.affine)
    assert t1ce.get_qform(coded=True)[1] == 1
    assert t1ce.get_sform(coded=True)[1] == 2
    provenance = json.loads((out / "provenance.json").read_text())
    assert (provenance["seed"], provenance["steps"], provenance["samples"]) == (3, 4, 2)
    assert provenance["inputs"]["t1"]["file"] == "P01_t1.nii.gz"
    assert len(provenance["inputs"]["flair"]["sha256"]) == 64
    assert len(provenance["model"]["hash"]) == 12
    assert provenance["threads"] == torch.get_num_threads()
    assert any("ml" in warning for warning in provenance["warnings"])
    assert "ml" in printed
    assert str(tmp_path) not in (out / "provenance.json").read_text()


def test_a_repeated_run_is_bit_identical(cli, case_folder, model_folder, tmp_path):
    for out in ("a", "b", "b"):
        assert cli("synth", case_folder, "-o", tmp_path / out, "--model", model_folder)[0] == 0
    for name in list_tree(tmp_path / "a"):
        if (tmp_path / "a" / name).is_file():
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert list_tree(tmp_path / "a") == list_tree(tmp_path / "b")


def test_files_of_one_patient_are_a_case(cli, case_folder, model_folder, tmp_path):
    files = [f"--{name}={case_folder / f'P01_{name}.nii.gz'}" for name in ("t1", "t2", "flair")]
    code, printed = cli("synth", *files, "--case", "p7", "-o", tmp_path / "out", "--model", model_folder)
    assert code == 0, printed
    assert (tmp_path / "out" / "p7" / "p7_desc-synthT1ce_T1w.nii.gz").is_file()
    code, printed = cli("synth", *files, "-o", tmp_path / "out", "--model", model_folder)
    assert (code, (tmp_path / "out" / "P01").is_dir()) == (0, True)  # the case name of the T1 file
    for name in ("../p7", "", "..", "a/b"):
        assert cli("synth", *files, "--case", name, "-o", tmp_path / "out")[0] == 2
    assert cli("synth", case_folder, *files, "-o", tmp_path / "out")[0] == 2


def test_a_bad_case_does_not_stop_a_batch_and_resume_skips_finished_cases(cli, model_folder, tmp_path):
    for name in ("A", "B", "C"):
        write_case(tmp_path / "cohort", name)
    (tmp_path / "cohort" / "B" / "B_t2.nii.gz").unlink()
    command = ("synth", tmp_path / "cohort", "-o", tmp_path / "out", "--model", model_folder)
    code, printed = cli(*command)
    assert code == 1
    assert "1 of 3 cases failed" in printed
    assert "case B has no t2" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"A", "C"}
    modified = (tmp_path / "out" / "A" / "provenance.json").stat().st_mtime_ns
    write_case(tmp_path / "complete", "B")
    (tmp_path / "complete" / "B" / "B_t2.nii.gz").rename(tmp_path / "cohort" / "B" / "B_t2.nii.gz")
    code, printed = cli(*command, "--resume")
    assert code == 0, printed
    assert "2 of 3 cases are finished already" in printed
    assert (tmp_path / "out" / "B" / "preview.png").is_file()
    assert (tmp_path / "out" / "A" / "provenance.json").stat().st_mtime_ns == modified


def test_resume_repeats_a_case_with_changed_input_or_settings(cli, case_folder, model_folder, tmp_path):
    command = ("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder, "--resume")
    assert cli(*command)[0] == 0
    assert "1 of 1 cases are finished" in cli(*command)[1]
    assert "0 of 1 cases are finished" in cli(*command, "--steps", 2)[1]
    nib.save(nib.Nifti1Image(make_patient(seed=5)["t2"], LPS_AFFINE), case_folder / "P01_t2.nii.gz")
    assert "0 of 1 cases are finished" in cli(*command, "--steps", 2)[1]
    (tmp_path / "out" / "P01" / "P01_desc-synthT1ce_T1w.nii.gz").unlink()
    assert "0 of 1 cases are finished" in cli(*command, "--steps", 2)[1]
    assert "1 of 1 cases are finished" in cli(*command, "--steps", 2)[1]
