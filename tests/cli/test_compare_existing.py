"""dsdiff compare --from compares finished runs without training."""

from shutil import copytree, rmtree

import pytest
import yaml

from dsdiff.comparison.plan import SCORES_FILE
from dsdiff.io import splits
from tests.cli.compare_helpers import forbid_training, method_names, read_results

pytestmark = pytest.mark.slow
BASELINES = ["copy of T1", "linear regression"]


def test_finished_runs_are_compared_without_training(
    compare, comparison_inputs, finished_comparison, tmp_path, monkeypatch
):
    forbid_training(monkeypatch)
    command = ("--from", finished_comparison / "runs", "--reference", "reference-4", "-o", tmp_path / "again")
    assert "give --data" in compare(*command)[1]
    code, output = compare(*command, "--data", comparison_inputs / "patients")
    assert code == 0, output

    parameters_arm, gmacs_arm = read_results(finished_comparison)["arms"]
    (arm,) = read_results(tmp_path / "again")["arms"]
    trained = [f"deeper-{gmacs_arm['methods'][2]['n_steps']}", "deeper-4", "one-step-regression-4"]
    assert method_names(arm) == ["reference-4", *trained, *BASELINES]
    assert arm["methods"][2]["scores"] == parameters_arm["methods"][2]["scores"]
    assert [bool(method["published"]) for method in arm["methods"]] == [True, True, True, False, False, False]


def test_runs_with_different_settings_or_folds_raise(compare, comparison_inputs, finished_comparison, tmp_path):
    deeper = finished_comparison / "runs" / "deeper-4"
    config = yaml.safe_load((deeper / "seed1-fold0" / "config.yaml").read_text())
    mismatched_run = tmp_path / "runs" / "odd"
    (mismatched_run / "model").mkdir(parents=True)
    (mismatched_run / "config.yaml").write_text(
        yaml.safe_dump({**config, "data": {**config["data"], "context_slices": 1}})
    )
    copytree(finished_comparison / "runs" / "reference-4", tmp_path / "runs" / "reference-4")
    command = ("--from", tmp_path / "runs", "--reference", "reference-4", "-o", tmp_path / "out")
    command += ("--data", comparison_inputs / "patients")
    code, output = compare(*command)
    assert code == 2
    assert "reference-4 and odd differ in more than the backbone (data.context_slices: 3 / 1)" in output

    copytree(deeper / "seed1-fold1", mismatched_run, dirs_exist_ok=True)
    code, output = compare(*command)
    assert code == 2
    assert "odd has runs of folds [1] under seed 1; reference-4 is scored on folds [0, 1]" in output


def test_one_step_regression_is_not_selected_as_reference(compare, comparison_inputs, finished_comparison, tmp_path):
    """One-step regression is the first by name and has the default backbone."""
    runs = tmp_path / "runs"
    for name in ("reference-4", "deeper-4", "one-step-regression-4"):
        copytree(finished_comparison / "runs" / name, runs / name.replace("reference", "zero"))
    code, output = compare("--from", runs, "--data", comparison_inputs / "patients", "-o", tmp_path / "out")
    assert code == 0, output
    assert method_names(read_results(tmp_path / "out")["arms"][0])[0] in ("zero-4", "deeper-4")


def test_runs_are_named_after_their_folders_and_unfinished_ones_are_excluded(
    compare, comparison_inputs, finished_comparison, tmp_path
):
    runs = tmp_path / "project" / "runs"
    names = ("deeper-4", "one-step-regression-4", "reference-4")
    for fold in (0, 1):
        for name in names:
            copytree(finished_comparison / "runs" / name / f"seed1-fold{fold}", runs / f"{name}-fold{fold}")
    command = ("--from", runs.parent, "--data", comparison_inputs / "patients", "-o", tmp_path / "out")
    code, output = compare(*command)
    assert code == 0, output
    trained = method_names(read_results(tmp_path / "out")["arms"][0])[:3]
    assert sorted(trained) == [f"runs/{name}-fold0" for name in names]

    for run in runs.glob("*-fold1"):
        rmtree(run / "model")  # a scored run does not need it
    assert compare(*command)[0] == 0
    assert len(read_results(tmp_path / "out")["patients"]) == 4

    for run in runs.glob("*-fold1"):
        (run / SCORES_FILE).unlink()
    code, output = compare(*command)
    assert (code, "Excluded: runs/deeper-4-fold1: not finished" in output) == (1, True), output


def test_missing_patients_of_other_folds_are_reported_first(compare, comparison_inputs, finished_comparison, tmp_path):
    for name in splits.read(comparison_inputs / "split.json").held_out(0):
        copytree(comparison_inputs / "patients" / name, tmp_path / "patients" / name)
    for name in ("reference-4", "deeper-4"):
        copytree(finished_comparison / "runs" / name / "seed1-fold0", tmp_path / "runs" / name / "seed1-fold0")
    command = ("--from", tmp_path / "runs", "--data", tmp_path / "patients", "-o", tmp_path / "out")
    code, output = compare(*command)
    assert (code, "lacks 2 of the 4 patients" in output) == (2, True), output
    assert not (tmp_path / "out").exists()


def test_patients_without_baseline_scores_are_reported(case_copies, compare, finished_comparison, tmp_path):
    (case_copies / "P2" / "P2_seg.nii.gz").write_bytes(b"no image")
    copytree(finished_comparison / "runs" / "reference-4", tmp_path / "runs" / "reference-4")
    code, output = compare("--from", tmp_path / "runs", "--data", case_copies, "-o", tmp_path / "out")
    assert (code, "could not be scored and are missing" in output) == (1, True), output
    assert "baselines: P2" in read_results(tmp_path / "out")["unscored"]
    assert "| copy of T1 | - |" in (tmp_path / "out" / "table.md").read_text()
