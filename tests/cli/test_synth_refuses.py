"""dsdiff synth on bad input, output and luck: messages, exit codes, and what stands on the disk afterwards."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.toy_data import LPS, patient, tree, write_case

BAD = np.full((44, 52, 24), np.nan, np.float32)


def replaced(case_folder, array, affine=LPS):
    nib.save(nib.Nifti1Image(array, affine), case_folder / "P01_t2.nii.gz")


def torn(case_folder):
    path = case_folder / "P01_t2.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


MISTAKES = {
    "missing file": (lambda f: (f / "P01_t2.nii.gz").unlink(), "has no t2"),
    "truncated gzip": (torn, "P01_t2.nii.gz cannot be read"),
    "not an image": (lambda f: (f / "P01_t2.nii.gz").write_text("hello"), "P01_t2.nii.gz cannot be read"),
    "4-D": (lambda f: replaced(f, np.zeros((44, 52, 24, 2), np.float32)), "4-D"),
    "empty": (lambda f: replaced(f, np.zeros((44, 0, 24), np.float32)), "P01_t2.nii.gz"),
    "NaN": (lambda f: replaced(f, BAD), "NaN or infinite"),
    "another grid": (lambda f: replaced(f, patient()["t2"][1:]), "t2 is (43, 52, 24), t1 is (44, 52, 24)"),
    "no brain": (lambda f: replaced(f, np.zeros((44, 52, 24), np.float32)), "t2 is constant"),
    "two files": (lambda f: replaced(f, patient()["t2"]) or (f / "P01_t2.nii").write_bytes(b""), "more than one t2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(cli, case_folder, model_folder, tmp_path, mistake):
    spoil, says = MISTAKES[mistake]
    spoil(case_folder)
    before = tree(tmp_path)
    code, said = cli("synth", case_folder, "-o", tmp_path / "new" / "out", "--model", model_folder)
    assert code == 2, said
    assert says in said
    assert said.startswith("error: ")
    assert len(said.strip().splitlines()) == 1
    assert tree(tmp_path) == before


def test_a_t1_without_brain_is_said(cli, case_folder, model_folder, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((44, 52, 24), np.float32), LPS), case_folder / "P01_t1.nii.gz")
    code, said = cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder)
    assert (code, "t1 holds no brain" in said, (tmp_path / "out").exists()) == (2, True, False)


def test_files_of_the_users_are_never_replaced(cli, case_folder, model_folder, tmp_path):
    command = ("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder)
    assert cli(*command)[0] == 0
    (tmp_path / "out" / "P01" / "my_roi.nii.gz").write_text("precious")
    code, said = cli(*command)
    assert code == 2
    assert "holds my_roi.nii.gz; it is left alone" in said
    assert (tmp_path / "out" / "P01" / "my_roi.nii.gz").read_text() == "precious"
    (tmp_path / "mine" / "P01").mkdir(parents=True)
    (tmp_path / "mine" / "P01" / "provenance.json").write_text("{}")
    code, said = cli("synth", case_folder, "-o", tmp_path / "mine", "--model", model_folder)
    assert (code, (tmp_path / "mine" / "P01" / "provenance.json").read_text()) == (2, "{}")


def test_an_output_that_is_someone_elses_is_left_alone(cli, case_folder, model_folder, tmp_path):
    code, said = cli("synth", case_folder, "-o", case_folder.parent, "--model", model_folder)
    assert code == 2
    assert "not an output of dsdiff" in said
    assert (case_folder / "P01_t1.nii.gz").is_file()


def test_an_output_that_cannot_be_written_is_said(cli, case_folder, model_folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, said = cli("synth", case_folder, "-o", tmp_path / "file", "--model", model_folder)
    assert code == 2
    assert "cannot be written" in said
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_forbidden_output_is_said(cli, case_folder, model_folder, tmp_path, monkeypatch):
    exists = Path.exists

    def forbidden(path, **kwargs):
        if path.name == "P01" and path.parent.name == "locked":
            raise PermissionError(13, "Permission denied")
        return exists(path, **kwargs)

    monkeypatch.setattr(Path, "exists", forbidden)
    code, said = cli("synth", case_folder, "-o", tmp_path / "locked", "--model", model_folder)
    assert code == 2
    assert "cannot be written: Permission denied" in said


def test_a_place_where_nothing_can_be_written_is_said_before_the_work(
    cli, case_folder, model_folder, tmp_path, monkeypatch
):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dsdiff.system.atomic.tempfile.mkdtemp", forbidden)
    monkeypatch.setattr("dsdiff.inference.batch.complete", lambda *_, **__: pytest.fail("it computes"))
    code, said = cli("synth", case_folder, "-o", tmp_path / "new" / "out", "--model", model_folder)
    assert (code, "cannot be written: Permission denied" in said) == (2, True)


def test_a_full_disk_leaves_nothing_behind_and_the_old_result_alone(
    cli, case_folder, model_folder, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    assert cli("synth", case_folder, "-o", out, "--model", model_folder)[0] == 0
    before = {name: (out / name).read_bytes() for name in tree(out) if (out / name).is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dsdiff.reporting.preview.save", full)
    code, said = cli("synth", case_folder, "-o", out, "--model", model_folder)
    assert code == 2
    assert "No space left on device" in said
    assert {name: (out / name).read_bytes() for name in tree(out) if (out / name).is_file()} == before
    assert {path.name for path in out.iterdir()} == {"P01"}


def test_an_unforeseen_fault_is_one_line_and_exit_code_1(cli, case_folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dsdiff.inference.batch.complete", lambda *_, **__: 1 / 0)
    code, said = cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder)
    assert code == 1
    assert "ZeroDivisionError" in said
    assert "--debug" in said
    assert not (tmp_path / "out").exists()


def test_a_stop_by_the_keyboard_is_said(cli, case_folder, model_folder, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dsdiff.inference.batch.complete", stop)
    code, said = cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder)
    assert (code, "stopped" in said, (tmp_path / "out").exists()) == (130, True, False)


def test_notes_beside_a_finished_result_stop_no_resume(cli, case_folder, model_folder, tmp_path):
    command = ("synth", case_folder.parent, "-o", tmp_path / "out", "--model", model_folder)
    assert cli(*command)[0] == 0
    (tmp_path / "out" / "P01" / ".DS_Store").write_text("by a file browser")
    write_case(case_folder.parent, "P02", 2)
    code, said = cli(*command, "--resume")
    assert (code, "1 of 2 cases are finished already" in said) == (0, True)
    assert (tmp_path / "out" / "P02" / "provenance.json").is_file()


def test_sigterm_leaves_nothing_half_written_and_says_so_in_its_exit_code(case_folder, model_folder, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from dsdiff.cli.main import run\n"
        "from dsdiff.inference import case\n"
        "def ending(*_): os.kill(os.getpid(), signal.SIGTERM)\n"
        "case.preview.save = ending\n"  # the volumes are written by then, the picture is not
        "run()\n"
    )
    line = ["synth", case_folder, "-o", tmp_path / "out", "--model", model_folder]
    done = subprocess.run([sys.executable, "-c", code, *map(str, line)], capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert "stopped" in done.stderr
    assert not list(tmp_path.rglob("*.partial"))
