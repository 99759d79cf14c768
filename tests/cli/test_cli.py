"""The command line as a user has it: messages, exit codes, and what stands on the disk afterwards."""

import json
import subprocess
import sys

import yaml

from dsdiff.cli.main import app
from tests.toy_data import TINY, tree, write_case


def test_split_is_written_once(cli, tmp_path):
    for name in ("A", "B", "C"):
        write_case(tmp_path / "cohort", name)
    command = ("split", tmp_path / "cohort", tmp_path / "split.json", "--folds", 3)
    code, said = cli(*command)
    assert (code, "1 + 1 + 1 cases" in said) == (0, True)
    assert cli(*command)[0] == 2
    code, said = cli("split", tmp_path / "cohort", tmp_path / "split.json" / "below.json")
    assert (code, "cannot be written" in said) == (2, True)


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


def test_the_demonstration_replaces_no_report_of_others(cli, tmp_path):
    (tmp_path / "report.html").write_text("precious")
    code, said = cli("demo", "-o", tmp_path)
    assert (code, "is not by this command" in said) == (2, True)
    assert tree(tmp_path) == {"report.html"}


def test_train_then_synth(cli, case_folder, tmp_path):
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
    out.mkdir()  # an empty folder is a place like any other
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
    for command in ((), *((command.name,) for command in app.registered_commands)):
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
