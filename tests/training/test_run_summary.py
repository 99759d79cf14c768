import json
from dataclasses import replace

import pytest
from matplotlib.image import imread

from dsdiff.config.run import dump_config, parse_config
from dsdiff.errors import InputError
from dsdiff.training import run_summary
from tests.toy_data import TINY_CONFIG


def write_run(folder, log, finished=False):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(parse_config(TINY_CONFIG, "test")))
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    if finished:
        (folder / "model").mkdir()


@pytest.fixture
def folder(tmp_path):
    steps = [{"step": step, "loss": 1 / step, "seconds": 2.0 * step} for step in (1, 2, 3, 4)]
    finished_log = [{"step": 0, "validation": 0.9}, *steps[:3], {**steps[3], "validation": 0.5, "seconds": 30.0}]
    unfinished_log = [*steps[:1], {**steps[1], "validation": 0.2, "volumes": {"psnr": 18.5}}]
    write_run(tmp_path / "a" / "one", finished_log, finished=True)
    write_run(tmp_path / "two", unfinished_log)
    return tmp_path


def test_the_table_lists_the_best_run_first(folder):
    runs = run_summary.find_runs(folder)
    assert (runs[0].name, runs[0].last_step, runs[0].is_finished, runs[0].seconds_per_step) == ("a/one", 4, True, 2.0)
    lines = run_summary.format_table(runs).splitlines()
    assert lines[2].split(" | ")[:5] == ["| two", "2 of 4 (unfinished)", "0.7500", "0.2000", "2"]
    assert lines[2].endswith("| 18.500 |")
    assert lines[3].split(" | ")[:5] == ["| a/one", "4 of 4", "0.5208", "0.5000", "4"]


def test_the_best_validation_is_that_of_the_selected_score(folder):
    (run,) = run_summary.find_runs(folder / "two")
    run.log.append({"step": 3, "validation": 0.3, "volumes": {"psnr": 19.0}})
    assert run.best["step"] == 2
    assert replace(run, select_by="psnr").best["step"] == 3


def test_runs_are_plotted(folder):
    run_summary.plot_runs(run_summary.find_runs(folder), folder / "runs.png")
    assert imread(folder / "runs.png").std() > 0.02


def test_a_folder_without_runs_is_rejected(folder):
    with pytest.raises(InputError, match="holds no run"):
        run_summary.find_runs(folder / "a" / "one" / "model")
