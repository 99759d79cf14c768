"""The command line from the view of a user: messages, exit codes and files."""

import json
import subprocess
import sys

import yaml

from dsdiff.cli.main import app
from tests.toy_data import TINY_CONFIG, list_tree, write_case


def test_split_is_written_once(cli, tmp_path):
    for name in ("A", "B", "C"):
        write_case(tmp_path / "cohort", name)
    command = ("split", tmp_path / "cohort", tmp_path / "split.json", "--folds", 3)
    code, printed = cli(*command)
    assert (code, "1 + 1 + 1 cases" in printed) == (0, True)
    assert cli(*command)[0] == 2
    code, printed = cli("split", tmp_path / "cohort", tmp_path / "split.json" / "below.json")
    assert (code, "cannot be written" in printed) == (2, True)


def test_mistakes_print_one_line_and_exit_with_2(cli, case_folder, tmp_path):
    for arguments, message in [
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
        code, printed = cli(*arguments, *(("-o", tmp_path / "out") if arguments[0] == "synth" else ()))
        assert code == 2, arguments
        assert message in printed
        assert len(printed.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_demo_does_not_replace_a_report_of_another_program(cli, tmp_path):
    (tmp_path / "report.html").write_text("precious")
    code, printed = cli("demo", "-o", tmp_path)
    assert (code, "dsdiff demo did not write it" in printed) == (2, True)
    assert list_tree(tmp_path) == {"report.html"}


def test_train_then_synth(cli, case_folder, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY_CONFIG))
    run_folder = tmp_path / "run"
    command = ("train", tmp_path / "tiny.yaml", f"data.root={case_folder.parent}", "-o", run_folder)
    code, printed = cli(*command, "backbone.params.model_chanels=3")
    assert (code, "model_chanels" in printed, run_folder.exists()) == (2, True, False)
    code, printed = cli(*command, "--dry-run", "--memory", "1GB")
    assert code == 0
    assert "M parameters" in printed
    assert "GMAC per slice of 32 x 48" in printed
    assert "1GB fits training.batch_size=2 training.accumulate=1 training.lr=0.0003" in printed
    assert cli(*command, "--memory", "1GB")[0] == 2
    code, printed = cli(*command)
    assert code == 0, printed
    code, printed = cli("synth", case_folder, "-o", tmp_path / "out", "--model", run_folder / "model")
    assert code == 0, printed
    code, printed = cli(*command, "training.lr=1")
    assert code == 2
    assert "belongs to another config" in printed


def test_synth_then_evaluate(cli, case_folder, model_folder, tmp_path):
    cohort, out = case_folder.parent, tmp_path / "evaluation"
    out.mkdir()  # an empty folder may exist
    assert cli("synth", case_folder, "-o", tmp_path / "out", "--model", model_folder, "--samples", 2)[0] == 0
    code, printed = cli("evaluate", tmp_path / "out", cohort, "-o", out)
    assert code == 0, printed
    assert "protocol brain" in printed
    assert "AUC in the brain" in printed
    assert list_tree(out) == {"report.html", "patients.csv", "summary.json"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["models"][0].startswith("tiny ")
    assert 0 <= summary["patients"]["P01"]["coverage_95"] <= 1
    assert cli("evaluate", tmp_path / "out", cohort, "-o", out, "--protocol", "volume", "--fit")[0] == 0  # replaces it
    assert json.loads((out / "summary.json").read_text())["protocol"]["name"] == "volume"
    (out / "notes.txt").write_text("precious")
    code, printed = cli("evaluate", tmp_path / "out", cohort, "-o", out)
    assert (code, "holds notes.txt, so it is not replaced" in printed) == (2, True)


def test_evaluate_reports_cases_that_cannot_be_scored(cli, model_folder, tmp_path):
    for name in ("A", "B"):
        write_case(tmp_path / "cohort", name)
    assert cli("synth", tmp_path / "cohort", "-o", tmp_path / "out", "--model", model_folder)[0] == 0
    (tmp_path / "cohort" / "B" / "B_t1ce.nii.gz").unlink()
    command = ("evaluate", tmp_path / "out", tmp_path / "cohort", "-o", tmp_path / "evaluation")
    code, printed = cli(*command)
    assert (code, "case B has no t1ce" in printed) == (1, True)
    assert json.loads((tmp_path / "evaluation" / "summary.json").read_text())["failures"].keys() == {"B"}
    (tmp_path / "cohort" / "A" / "A_t1ce.nii.gz").unlink()
    code, printed = cli(*command[:-1], tmp_path / "none")
    assert (code, "no case could be scored" in printed, (tmp_path / "none").exists()) == (2, True, False)
    code, printed = cli(*command, "--protocol", "brane")
    assert (code, "protocol 'brane' is unknown" in printed) == (2, True)


def test_version_and_help_of_every_command(cli):
    assert cli("--version") == (0, "dsdiff 0.1.0\n")
    code, printed = cli()
    assert (code, "Usage" in printed) == (0, True)
    for command in ((), *((command.name,) for command in app.registered_commands)):
        code, printed = cli(*command, "--help")
        assert code == 0
        assert "Usage" in printed


def test_help_imports_nothing_heavy():
    program = """
import sys
sys.argv = ["dsdiff", "--help"]
from dsdiff.cli.main import run
try:
    run()
except SystemExit:
    pass
print(sorted({"torch", "monai", "numpy", "nibabel", "scipy", "matplotlib", "pydantic"} & set(sys.modules)))
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip().endswith("[]")
