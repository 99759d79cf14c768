"""dsdiff compare resumes a comparison, and repeats only what has changed."""

from shutil import copytree, rmtree

import pytest

from dsdiff.comparison import scoring, throughput
from dsdiff.comparison.plan import SCORES_FILE
from dsdiff.training import loop
from tests.cli.compare_helpers import copy_comparison, forbid_training, read_results, training_arguments
from tests.toy_data import write_case

pytestmark = pytest.mark.slow


def test_a_resumed_comparison_equals_one_that_was_never_interrupted(
    comparison_inputs, compare, finished_comparison, tmp_path, monkeypatch
):
    train_step = loop.Trainer.train_step
    n_steps = 0
    out = tmp_path / "stopped"

    def interrupt(self, *args):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 3 * 4 + 3:  # in the fourth training
            raise KeyboardInterrupt
        return train_step(self, *args)

    monkeypatch.setattr(loop.Trainer, "train_step", interrupt)
    command = (*training_arguments(comparison_inputs, "reference", "deeper"), "-o", out)
    assert compare(*command)[0] == 130
    assert not (out / "table.md").exists()
    modification_times = {path: path.stat().st_mtime_ns for path in out.rglob(SCORES_FILE)}
    assert modification_times

    monkeypatch.setattr(loop.Trainer, "train_step", train_step)
    assert compare(*command)[0] == 0
    assert {**read_results(out), "command": ""} == {**read_results(finished_comparison), "command": ""}
    assert modification_times == {path: path.stat().st_mtime_ns for path in modification_times}
    table = (out / "table.md").read_text()
    uninterrupted_table = (finished_comparison / "table.md").read_text()
    assert table.splitlines()[1:] == uninterrupted_table.splitlines()[1:]  # the first line is the command
    assert compare(*command)[1].startswith(table)  # nothing is left to do: it prints the same table


def test_another_spelling_of_the_folder_is_the_same_comparison(
    comparison_inputs, compare, finished_comparison, monkeypatch
):
    monkeypatch.chdir(finished_comparison.parent)
    forbid_training(monkeypatch)
    monkeypatch.setattr(throughput, "measure_seconds_per_step", lambda *_: pytest.fail("a step is timed again"))
    arguments = training_arguments(comparison_inputs, "reference", "deeper")
    code, output = compare(*arguments, "-o", finished_comparison.name)
    assert code == 0, output


def test_a_scored_run_does_not_need_its_model(comparison_inputs, compare, finished_comparison, tmp_path, monkeypatch):
    out = copy_comparison(finished_comparison, tmp_path / "out")
    for config in (out / "runs").glob("*/*/config.yaml"):
        for path in config.parent.iterdir():
            if path.is_dir():
                rmtree(path)
            elif path.name not in (config.name, SCORES_FILE):
                path.unlink()
    forbid_training(monkeypatch)
    code, output = compare(*training_arguments(comparison_inputs, "reference", "deeper"), "-o", out)
    assert code == 0, output
    assert read_results(out)["arms"] == read_results(finished_comparison)["arms"]


def test_seeds_can_be_added_to_one_arm(comparison_inputs, compare, finished_comparison, tmp_path):
    out = copy_comparison(finished_comparison, tmp_path / "out")
    arguments = (*training_arguments(comparison_inputs, "reference", "deeper"), "--seeds", 2, "--gmac-seeds", 1)
    code, output = compare(*arguments, "-o", out)
    assert code == 0, output
    assert "seeds: 2 (Equal parameters), 1 (Equal GMACs)" in output
    parameters_arm, gmacs_arm = read_results(out)["arms"]
    psnr = [method["scores"]["psnr_brain"] for method in parameters_arm["methods"]]
    assert [len(values) for values in psnr] == [2, 2, 2, 1, 1]
    assert psnr[0][0] == gmacs_arm["methods"][0]["scores"]["psnr_brain"][0]
    assert gmacs_arm == read_results(finished_comparison)["arms"][1]


def test_an_unscored_patient_is_reported_and_tried_again(
    comparison_inputs, compare, finished_comparison, tmp_path, monkeypatch
):
    out = copy_comparison(finished_comparison, tmp_path / "out")
    for file in (out / "runs").rglob(SCORES_FILE):
        file.unlink()
    load_volumes = scoring.load_volumes
    n_calls = 0

    def fail_once(*args):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            raise OSError("Stale file handle")
        return load_volumes(*args)

    monkeypatch.setattr(scoring, "load_volumes", fail_once)
    command = (*training_arguments(comparison_inputs, "reference", "deeper"), "-o", out)
    code, output = compare(*command)
    message = "1 could not be scored and are missing, such as reference, 4 steps, seed 1"
    assert (code, message in output) == (1, True), output
    assert read_results(out)["patients"] == ["P0", "P1", "P2", "P3"]

    code, output = compare(*command)
    assert code == 0, output
    reference = read_results(out)["arms"][0]["methods"][0]
    assert reference["scores"] == read_results(finished_comparison)["arms"][0]["methods"][0]["scores"]


def test_runs_on_other_cases_are_refused(case_copies, comparison_inputs, compare, finished_comparison, tmp_path):
    out = copy_comparison(finished_comparison, tmp_path / "out")
    write_case(case_copies, "P9", 9)
    command = (*training_arguments(comparison_inputs, "reference", "deeper"), "--data", case_copies, "-o", out)
    code, output = compare(*command)
    assert (code, "was trained on other cases" in output) == (2, True), output
    for run in (out / "runs").glob("*/*"):
        rmtree(run / "model")  # scores record the store too
    assert "was trained on other cases" in compare(*command)[1]

    rmtree(case_copies / "P9")
    code, output = compare(*command)
    assert code == 0, output


def test_changed_files_are_scored_again(case_copies, compare, finished_comparison, tmp_path):
    copytree(finished_comparison / "runs" / "reference-4", tmp_path / "runs" / "reference-4")
    command = ("--from", tmp_path / "runs", "--data", case_copies, "-o", tmp_path / "out")
    assert compare(*command)[0] == 0
    times = [path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob(SCORES_FILE)]
    methods = read_results(tmp_path / "out")["arms"][0]["methods"]

    write_case(tmp_path / "other", "P0", seed=9)
    for file in (tmp_path / "other" / "P0").iterdir():
        file.replace(case_copies / "P0" / file.name)
    assert compare(*command)[0] == 0
    for method, rescored in zip(methods, read_results(tmp_path / "out")["arms"][0]["methods"], strict=True):
        psnr, rescored_psnr = method["scores"]["psnr_brain"][0], rescored["scores"]["psnr_brain"][0]
        assert psnr[0] != rescored_psnr[0]
        # the linear regression is fitted on P0 too, so all of its scores change
        assert psnr[1:] == rescored_psnr[1:] or method["name"] == "linear regression"
    new_times = [path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob(SCORES_FILE)]
    assert sum(time != new_time for time, new_time in zip(times, new_times, strict=True)) == 1  # the fold of P0
