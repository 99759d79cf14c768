"""dsdiff synth with mistakes in inputs, outputs and on interruption: messages, exit codes, and the files left behind."""

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.toy_data import LPS_AFFINE, SHAPE, list_tree, make_patient, write_case

COMPUTE = "dsdiff.inference.pipeline.Pipeline.synthesize_loaded"


def write_t2(case_folder, array):
    nib.save(nib.Nifti1Image(array.astype(np.float32), LPS_AFFINE), case_folder / "P01_t2.nii.gz")


def delete_t2(case_folder):
    (case_folder / "P01_t2.nii.gz").unlink()


def truncate_t2(case_folder):
    path = case_folder / "P01_t2.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_text_as_t2(case_folder):
    (case_folder / "P01_t2.nii.gz").write_text("hello")


def crop_t2(case_folder):
    write_t2(case_folder, make_patient()["t2"][1:])


def duplicate_t2(case_folder):
    (case_folder / "P01_t2.nii").write_bytes(b"")


MISTAKES = {
    "missing file": (delete_t2, "has no t2"),
    "truncated gzip": (truncate_t2, "P01_t2.nii.gz is cut off"),
    "not an image": (write_text_as_t2, "P01_t2.nii.gz is a text file"),
    "4-D": (lambda folder: write_t2(folder, np.zeros((*SHAPE, 2))), "4-D"),
    "empty": (lambda folder: write_t2(folder, np.zeros((44, 0, 24))), "P01_t2.nii.gz"),
    "NaN": (lambda folder: write_t2(folder, np.full(SHAPE, np.nan)), "NaN or infinite"),
    "different grid": (crop_t2, "t2 is (43, 52, 24), t1 is (44, 52, 24)"),
    "no brain": (lambda folder: write_t2(folder, np.zeros(SHAPE)), "t2 is constant"),
    "two files": (duplicate_t2, "more than one t2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(cli, case_folder, model_folder, tmp_path, mistake):
    make_mistake, message = MISTAKES[mistake]
    make_mistake(case_folder)
    files = list_tree(tmp_path)
    code, printed = cli("synth", case_folder, "-o", tmp_path / "new" / "out", "--model", model_folder)
    assert code == 2, printed
    assert message in printed
    assert printed.startswith("error: ")
    assert len(printed.strip().splitlines()) == 1
    assert list_tree(tmp_path) == files


def test_t1_without_brain_raises(cli, case_folder, model_folder, tmp_path):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.float32), LPS_AFFINE), case_folder / "P01_t1.nii.gz")
    code, printed = cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder)
    assert (code, "t1 holds no brain" in printed, (tmp_path / "out").exists()) == (2, True, False)


def test_files_of_the_user_are_not_replaced(cli, case_folder, model_folder, tmp_path):
    command = ("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder)
    assert cli(*command)[0] == 0
    (tmp_path / "out" / "P01" / "my_roi.nii.gz").write_text("precious")
    code, printed = cli(*command)
    assert code == 2
    assert "holds my_roi.nii.gz, so it is not replaced" in printed
    assert (tmp_path / "out" / "P01" / "my_roi.nii.gz").read_text() == "precious"
    (tmp_path / "user" / "P01").mkdir(parents=True)
    (tmp_path / "user" / "P01" / "provenance.json").write_text("{}")
    code, printed = cli("synth", case_folder, "-o", tmp_path / "user", "--model", model_folder)
    assert (code, (tmp_path / "user" / "P01" / "provenance.json").read_text()) == (2, "{}")


def test_a_folder_that_is_not_an_output_is_not_replaced(cli, case_folder, model_folder, tmp_path):
    code, printed = cli("synth", case_folder, "-o", case_folder.parent, "--model", model_folder)
    assert code == 2
    assert "not an output of dsdiff" in printed
    assert (case_folder / "P01_t1.nii.gz").is_file()


def test_output_below_a_file_is_one_line(cli, case_folder, model_folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, printed = cli("synth", case_folder, "-o", tmp_path / "file", "--model", model_folder)
    assert code == 2
    assert "cannot be written" in printed
    assert (tmp_path / "file").read_text() == "in the way"


def test_output_without_permission_is_one_line(cli, case_folder, model_folder, tmp_path, monkeypatch):
    exists = Path.exists

    def exists_or_raise(path, **kwargs):
        if path.name == "P01" and path.parent.name == "locked":
            raise PermissionError(13, "Permission denied")
        return exists(path, **kwargs)

    monkeypatch.setattr(Path, "exists", exists_or_raise)
    code, printed = cli("synth", case_folder, "-o", tmp_path / "locked", "--model", model_folder)
    assert code == 2
    assert "cannot be written: Permission denied" in printed


def test_a_folder_without_write_permission_raises_before_the_network_runs(
    cli, case_folder, model_folder, tmp_path, monkeypatch
):
    def raise_permission_error(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dsdiff.system.atomic.tempfile.mkdtemp", raise_permission_error)
    monkeypatch.setattr(COMPUTE, lambda *_, **__: pytest.fail("the network ran"))
    code, printed = cli("synth", case_folder, "-o", tmp_path / "new" / "out", "--model", model_folder)
    assert (code, "cannot be written: Permission denied" in printed) == (2, True)


def read_files(folder):
    return {name: (folder / name).read_bytes() for name in list_tree(folder) if (folder / name).is_file()}


def test_a_full_disk_leaves_no_partial_file_and_keeps_the_previous_result(
    cli, case_folder, model_folder, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    assert cli("synth", case_folder, "-o", out, "--model", model_folder)[0] == 0
    contents = read_files(out)

    def raise_disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dsdiff.reporting.figures.save_png", raise_disk_full)
    code, printed = cli("synth", case_folder, "-o", out, "--model", model_folder)
    assert code == 2
    assert "No space left on device" in printed
    assert read_files(out) == contents
    assert {path.name for path in out.iterdir()} == {"P01"}


def test_an_internal_error_is_one_line_and_exit_code_1(cli, case_folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(COMPUTE, lambda *_, **__: 1 / 0)
    code, printed = cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder)
    assert code == 1
    assert "ZeroDivisionError" in printed
    assert "--debug" in printed
    assert not (tmp_path / "out").exists()


def test_ctrl_c_prints_how_to_continue(cli, case_folder, model_folder, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(COMPUTE, stop)
    code, printed = cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder)
    assert (code, "stopped" in printed, (tmp_path / "out").exists()) == (130, True, False)


def test_resume_ignores_foreign_files_in_a_finished_result(cli, case_folder, model_folder, tmp_path):
    command = ("synth", case_folder.parent, "-o", tmp_path / "out", "--model", model_folder)
    assert cli(*command)[0] == 0
    (tmp_path / "out" / "P01" / ".DS_Store").write_text("written by a file browser")
    write_case(case_folder.parent, "P02", 2)
    code, printed = cli(*command, "--resume")
    assert (code, "1 of 2 cases are finished already" in printed) == (0, True)
    assert (tmp_path / "out" / "P02" / "provenance.json").is_file()


def test_sigterm_leaves_no_partial_file_and_exits_with_143(case_folder, model_folder, tmp_path):
    program = (
        "import os, signal, sys\n"
        "from dsdiff.cli.main import run\n"
        "from dsdiff.inference import outputs\n"
        "def terminate(*_): os.kill(os.getpid(), signal.SIGTERM)\n"
        "outputs.figures.save_png = terminate\n"  # the volumes are written already, the preview is not
        "run()\n"
    )
    arguments = ["synth", case_folder, "-o", tmp_path / "out", "--model", model_folder]
    process = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    assert process.returncode == 143, process.stderr
    assert "stopped" in process.stderr
    assert not list(tmp_path.rglob("*.partial"))
