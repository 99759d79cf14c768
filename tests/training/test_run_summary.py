import json
from dataclasses import replace

import pytest
from matplotlib.image import imread

from dsdiff.config import run as configs
from dsdiff.errors import InputError
from dsdiff.training import run_summary
from tests.toy_data import TINY


def write(folder, log, finished=False):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(configs.dump(configs.parse(TINY, "test")))
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    if finished:
        (folder / "model").mkdir()


def test_runs_are_listed_best_first_and_drawn(tmp_path):
    steps = [{"step": n, "loss": 1 / n, "seconds": 2.0 * n} for n in (1, 2, 3, 4)]
    one = [{"step": 0, "validation": 0.9}, *steps[:3], {**steps[3], "validation": 0.5, "seconds": 30.0}]
    write(tmp_path / "a" / "one", one, finished=True)
    write(tmp_path / "two", [*steps[:1], {**steps[1], "validation": 0.2, "volumes": {"psnr": 18.5}}])
    found = run_summary.find(tmp_path)
    assert [(run.name, run.done, run.finished, run.seconds_per_step) for run in found[:1]] == [("a/one", 4, True, 2.0)]
    lines = run_summary.table(found).splitlines()
    assert lines[2].split(" | ")[:5] == ["| two", "2 of 4 (unfinished)", "0.7500", "0.2000", "2"]
    assert lines[2].endswith("| 18.500 |")
    assert lines[3].split(" | ")[:5] == ["| a/one", "4 of 4", "0.5208", "0.5000", "4"]
    (asked,) = (replace(run, judge="psnr") for run in run_summary.find(tmp_path / "two"))
    asked.log.append({"step": 3, "validation": 0.3, "volumes": {"psnr": 19.0}})
    assert asked.best is not None
    assert asked.best["step"] == 3  # by its own judge, not by the loss
    run_summary.draw(found, tmp_path / "runs.png")
    assert imread(tmp_path / "runs.png").std() > 0.02
    with pytest.raises(InputError, match="holds no run"):
        run_summary.find(tmp_path / "a" / "one" / "model")
