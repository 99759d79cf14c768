import json

import pytest

from dsdiff.comparison import throughput
from dsdiff.config.run import parse_config
from dsdiff.errors import ConfigError
from tests.toy_data import TINY_CONFIG


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20min", 1200), ("1.5h", 5400), (" 2 min ", 120)])
def test_a_budget_is_a_number_and_a_unit(text, seconds):
    assert throughput.parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "min", "0s", "-5min", "20 minutes", "1h30min", "nan s", "1e3s"])
def test_a_budget_without_number_and_unit_is_refused(text):
    with pytest.raises(ConfigError, match=r"is not a time; give seconds, minutes or hours"):
        throughput.parse_budget(text)


def test_a_step_is_timed_once_and_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "run_in_subprocess", lambda job, *args: job(*args))
    config, cache_file = parse_config(TINY_CONFIG, "tiny"), tmp_path / "calibration.json"
    seconds = throughput.cached_seconds_per_step(config, "tiny", "cpu", cache_file)
    assert seconds > 0
    assert throughput.cached_seconds_per_step(config, "tiny", "cpu", cache_file) == seconds

    cache_file.write_text(json.dumps({"tiny": 7.0}))
    assert throughput.cached_seconds_per_step(config, "tiny", "cpu", cache_file) == 7
    throughput.cached_seconds_per_step(config, "other", "cpu", cache_file)
    assert set(json.loads(cache_file.read_text())) == {"tiny", "other"}
