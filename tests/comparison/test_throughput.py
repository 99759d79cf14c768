import json

import pytest

from dsdiff.comparison import throughput
from dsdiff.config import run as configs
from dsdiff.errors import ConfigError
from tests.toy_data import TINY


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20min", 1200), ("1.5h", 5400), (" 2 min ", 120)])
def test_a_budget_is_a_number_and_a_unit(text, seconds):
    assert throughput.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "min", "0s", "-5min", "20 minutes", "1h30min", "nan s", "1e3s"])
def test_anything_else_is_no_budget(text):
    with pytest.raises(ConfigError, match=r"is no time; give seconds, minutes or hours"):
        throughput.parse(text)


def test_a_step_is_timed_once_and_then_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "apart", lambda job, *args: job(*args))
    config, file = configs.parse(TINY, "tiny"), tmp_path / "calibration.json"
    first = throughput.calibrated(config, "tiny", "cpu", file)
    assert first > 0
    assert throughput.calibrated(config, "tiny", "cpu", file) == first
    file.write_text(json.dumps({"tiny": 7.0}))
    assert throughput.calibrated(config, "tiny", "cpu", file) == 7
    throughput.calibrated(config, "other", "cpu", file)
    assert set(json.loads(file.read_text())) == {"tiny", "other"}
