import pytest
import torch

from dsdiff.comparison import costs, throughput
from dsdiff.comparison.candidates import Candidate
from dsdiff.comparison.options import ComparisonOptions
from dsdiff.comparison.plan import Method, Run
from dsdiff.config.run import load_config
from dsdiff.profiling import cost
from dsdiff.profiling.cost import MeasuredCost


@pytest.fixture(scope="module")
def config():
    return load_config("bridge-small")


def test_the_cache_of_costs_has_one_entry_per_device(config, tmp_path, monkeypatch):
    seconds = {"cpu": 9.0, "cuda": 0.1}
    monkeypatch.setattr(throughput, "resolve_device", lambda name: torch.device(name))
    monkeypatch.setattr(cost, "measure_cost", lambda file, size, device, *_: MeasuredCost(seconds[device], 1.0, None))
    candidate, cache_file = Candidate("unet", config), tmp_path / "costs.json"
    seconds_per_slice = [
        costs.measure_cost(candidate, tmp_path, device, cache_file).seconds_per_slice
        for device in ("cpu", "cuda", "cpu")
    ]
    assert seconds_per_slice == [9.0, 0.1, 9.0]


def test_a_candidate_whose_cost_cannot_be_measured_is_reported(config, tmp_path, monkeypatch):
    def run_out_of_memory(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(cost, "measure_cost", run_out_of_memory)
    method = Method(Candidate("deeper", config), 4, (Run(tmp_path, config, tmp_path),))
    options = ComparisonOptions(tmp_path, "brain", "cpu", jobs=1, allow_code=False)
    assert costs.measure_costs({"parameters": (method,)}, {}, options) == ({}, {"deeper": "no room"})
