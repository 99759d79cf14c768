"""The command line as a user has it: messages, exit codes, and what stands on the disk afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import LPS, TINY, patient, write_case

from dsdiff.cli.main import run

BAD = np.full((44, 52, 24), np.nan, np.float32)


def dsdiff(capsys, monkeypatch, *arguments):
    """Exit code and messages of a command."""
    monkeypatch.setattr(sys, "argv", ["dsdiff", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run()
    printed = capsys.readouterr()
    return ended.value.code, printed.out + printed.err


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: dsdiff(capsys, monkeypatch, *arguments)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()


def test_synth_writes_what_it_names(cli, case_folder, model_folder, tmp_path):
    code, said = cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder, "--samples", 2, "--seed", 3)
    assert code == 0, said
    out = tmp_path / "out" / "P01"
    assert tree(out) == {
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
    facts = json.loads((out / "provenance.json").read_text())
    assert (facts["seed"], facts["steps"], facts["samples"]) == (3, 4, 2)
    assert facts["inputs"]["t1"]["file"] == "P01_t1.nii.gz"
    assert len(facts["inputs"]["flair"]["sha256"]) == 64
    assert len(facts["model"]["hash"]) == 12
    assert any("ml" in warning for warning in facts["warnings"])
    assert "ml" in said
    assert str(tmp_path) not in (out / "provenance.json").read_text()


def test_a_repeated_run_is_bit_identical(cli, case_folder, model_folder, tmp_path):
    for out in ("a", "b", "b"):
        assert cli("synth", case_folder, "-o", tmp_path / out, "--model", model_folder)[0] == 0
    for name in tree(tmp_path / "a"):
        if (tmp_path / "a" / name).is_file():
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_explicit_files_are_a_case(cli, case_folder, model_folder, tmp_path):
    files = [f"--{name}={case_folder / f'P01_{name}.nii.gz'}" for name in ("t1", "t2", "flair")]
    code, said = cli("synth", *files, "--case", "p7", "-o", tmp_path / "out", "--model", model_folder)
    assert code == 0, said
    assert (tmp_path / "out" / "p7" / "p7_desc-synthT1ce_T1w.nii.gz").is_file()
    code, said = cli("synth", *files, "-o", tmp_path / "out", "--model", model_folder)
    assert (code, (tmp_path / "out" / "P01").is_dir()) == (0, True)  # named by T1's file
    for name in ("../p7", "", "..", "a/b"):
        assert cli("synth", *files, "--case", name, "-o", tmp_path / "out")[0] == 2
    assert cli("synth", case_folder, *files, "-o", tmp_path / "out")[0] == 2


def test_one_bad_case_does_not_stop_the_others_and_resume_skips_the_finished(cli, model_folder, tmp_path):
    for name in ("A", "B", "C"):
        write_case(tmp_path / "cohort", name)
    (tmp_path / "cohort" / "B" / "B_t2.nii.gz").unlink()
    command = ("synth", tmp_path / "cohort", "-o", tmp_path / "out", "--model", model_folder)
    code, said = cli(*command)
    assert code == 1
    assert "1 of 3 cases failed" in said
    assert "case B has no t2" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"A", "C"}
    stamp = (tmp_path / "out" / "A" / "provenance.json").stat().st_mtime_ns
    write_case(tmp_path / "other", "B")
    (tmp_path / "other" / "B" / "B_t2.nii.gz").rename(tmp_path / "cohort" / "B" / "B_t2.nii.gz")
    code, said = cli(*command, "--resume")
    assert code == 0, said
    assert "2 of 3 cases are finished already" in said
    assert (tmp_path / "out" / "B" / "preview.png").is_file()
    assert (tmp_path / "out" / "A" / "provenance.json").stat().st_mtime_ns == stamp


def test_a_changed_input_is_not_a_finished_case(cli, case_folder, model_folder, tmp_path):
    command = ("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder, "--resume")
    assert cli(*command)[0] == 0
    assert "1 of 1 cases are finished" in cli(*command)[1]
    assert "0 of 1 cases are finished" in cli(*command, "--steps", 2)[1]
    replaced(case_folder, patient(seed=5)["t2"])
    assert "0 of 1 cases are finished" in cli(*command, "--steps", 2)[1]


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


def test_an_unforeseen_fault_is_one_line_and_exit_code_1(cli, case_folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dsdiff.inference.cohort.complete", lambda *_, **__: 1 / 0)
    code, said = cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder)
    assert code == 1
    assert "ZeroDivisionError" in said
    assert "--debug" in said
    assert not (tmp_path / "out").exists()


def test_a_stop_by_the_keyboard_is_said(cli, case_folder, model_folder, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dsdiff.inference.cohort.complete", stop)
    code, said = cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder)
    assert (code, "stopped" in said, (tmp_path / "out").exists()) == (130, True, False)


def test_split_is_written_once(cli, tmp_path):
    for name in ("A", "B", "C"):
        write_case(tmp_path / "cohort", name)
    command = ("split", tmp_path / "cohort", tmp_path / "split.json", "--folds", 3)
    code, said = cli(*command)
    assert (code, "1 + 1 + 1 cases" in said) == (0, True)
    assert cli(*command)[0] == 2
    code, said = cli("split", tmp_path / "cohort", tmp_path / "split.json" / "below.json")
    assert (code, "cannot be written" in said) == (2, True)


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


def test_wrong_commands_are_said(cli, case_folder, tmp_path):
    for arguments, says in [
        (("synth",), "nothing to do"),
        (("synth", tmp_path / "absent"), "no such folder"),
        (("synth", case_folder, "--model", "nonesuch"), "model 'nonesuch' is unknown"),
        (("synth", case_folder, "--device", "tpu"), "device 'tpu' is unknown"),
        (("synth", case_folder, "--steps", 1, "--samples", 2), "deterministic"),
        (("synth", case_folder, "--samples", 0), "samples"),
        (("synth", case_folder, "--stepps", 2), "stepps"),
        (("synth", case_folder, "--case", "other"), "--case goes with"),
        (("synht",), "synht"),
        (("synth", case_folder, case_folder), "P01 is given more than once"),
        (("train", tmp_path / "absent.yaml"), "no such config"),
    ]:
        code, said = cli(*arguments, *(("-o", tmp_path / "out") if arguments[0] == "synth" else ()))
        assert code == 2, arguments
        assert says in said
        assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


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


def test_a_full_disk_leaves_nothing_behind_and_the_old_result_alone(
    cli, case_folder, model_folder, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    assert cli("synth", case_folder, "-o", out, "--model", model_folder)[0] == 0
    before = {name: (out / name).read_bytes() for name in tree(out) if (out / name).is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dsdiff.inference.preview.save", full)
    code, said = cli("synth", case_folder, "-o", out, "--model", model_folder)
    assert code == 2
    assert "No space left on device" in said
    assert {name: (out / name).read_bytes() for name in tree(out) if (out / name).is_file()} == before
    assert {path.name for path in out.iterdir()} == {"P01"}


def test_train_then_synth(cli, case_folder, tmp_path):
    import yaml

    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    run_folder = tmp_path / "run"
    command = ("train", tmp_path / "tiny.yaml", f"data.root={case_folder.parent}", "-o", run_folder)
    code, said = cli(*command, "backbone.params.model_chanels=3")
    assert (code, "model_chanels" in said, run_folder.exists()) == (2, True, False)
    code, said = cli(*command, "--dry-run", "--memory", "1GB")
    assert code == 0
    assert "M parameters" in said
    assert "GMAC a slice of 32 x 48" in said
    assert "1GB fits training.batch_size=2 training.accumulate=1 training.lr=0.0003" in said
    assert cli(*command, "--memory", "1GB")[0] == 2
    code, said = cli(*command)
    assert code == 0, said
    code, said = cli("synth", case_folder, "-o", tmp_path / "out", "--model", run_folder / "model")
    assert code == 0, said
    code, said = cli(*command, "training.lr=1")
    assert code == 2
    assert "belongs to another config" in said


def test_synth_then_evaluate(cli, case_folder, model_folder, tmp_path):
    cohort, out = case_folder.parent, tmp_path / "evaluation"
    assert cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder, "--samples", 2)[0] == 0
    code, said = cli("evaluate", tmp_path / "out", cohort, "-o", out)
    assert code == 0, said
    assert "protocol brain" in said
    assert "AUC in the brain" in said
    assert tree(out) == {"report.html", "patients.csv", "summary.json"}
    facts = json.loads((out / "summary.json").read_text())
    assert facts["models"][0].startswith("tiny ")
    assert 0 <= facts["patients"]["P01"]["coverage_95"] <= 1
    assert cli("evaluate", tmp_path / "out", cohort, "-o", out, "--protocol", "volume", "--fit")[0] == 0  # replaces it
    assert json.loads((out / "summary.json").read_text())["protocol"]["name"] == "volume"
    (out / "notes.txt").write_text("precious")
    code, said = cli("evaluate", tmp_path / "out", cohort, "-o", out)
    assert (code, "holds notes.txt; it is left alone" in said) == (2, True)


def test_evaluate_reports_what_cannot_be_scored(cli, model_folder, tmp_path):
    for name in ("A", "B"):
        write_case(tmp_path / "cohort", name)
    assert cli("synth", tmp_path / "cohort", "-o", tmp_path / "out", "--model", model_folder)[0] == 0
    (tmp_path / "cohort" / "B" / "B_t1ce.nii.gz").unlink()
    command = ("evaluate", tmp_path / "out", tmp_path / "cohort", "-o", tmp_path / "evaluation")
    code, said = cli(*command)
    assert (code, "case B has no t1ce" in said) == (1, True)
    assert json.loads((tmp_path / "evaluation" / "summary.json").read_text())["failed"].keys() == {"B"}
    (tmp_path / "cohort" / "A" / "A_t1ce.nii.gz").unlink()
    code, said = cli(*command[:-1], tmp_path / "none")
    assert (code, "no case could be scored" in said, (tmp_path / "none").exists()) == (2, True, False)
    code, said = cli(*command, "--protocol", "brane")
    assert (code, "protocol 'brane' is unknown" in said) == (2, True)


def test_version_and_help(cli):
    assert cli("--version") == (0, "dsdiff 0.1.0\n")
    code, said = cli()
    assert (code, "Usage" in said) == (0, True)
    commands = (
        "synth",
        "train",
        "phantom",
        "demo",
        "split",
        "runs",
        "import-config",
        "evaluate",
        "backbones",
        "probe",
        "explain",
    )
    for command in ((), *((name,) for name in commands)):
        code, said = cli(*command, "--help")
        assert code == 0
        assert "Usage" in said


def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv = ['dsdiff', '--help']\nfrom dsdiff.cli.main import run\ntry: run()\nexcept SystemExit: pass\n"
    code += (
        "print(sorted({'torch', 'monai', 'numpy', 'nibabel', 'scipy', 'matplotlib', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
