"""Costs of the candidates: size, compute, time and memory of their networks. They are measured once and cached."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dsdiff.comparison import throughput
from dsdiff.comparison.candidates import Candidate
from dsdiff.comparison.options import ComparisonOptions
from dsdiff.comparison.plan import MethodsByArm, list_methods
from dsdiff.comparison.runner import FailedRuns
from dsdiff.comparison_report.results import ModelCost
from dsdiff.profiling import cost
from dsdiff.system import json_cache
from dsdiff.training.loop import CONFIG_FILE

COSTS_FILE = "costs.json"
PROFILE_SIDE = 256  # pixels; side of the profiled slice, as in dsdiff backbones


def training_macs(candidate: Candidate) -> int:
    """Count the multiply-accumulates of one forward pass of one training slice.

    Args:
        candidate: The candidate.

    Returns:
        Number of multiply-accumulates.

    Raises:
        Exception: Anything that building the backbone raises.
    """
    height, width = candidate.config.data.crop
    return cost.count_cost(candidate.config, height, width).macs


def measure_cost(candidate: Candidate, run_folder: Path, device: str, cache_file: Path) -> ModelCost:
    """Measure the cost of a candidate, or read it from the cache.

    Args:
        candidate: The candidate.
        run_folder: One of its runs; its config is profiled in another process.
        device: auto, cpu, cuda or mps; each kind of device has its own entry in the cache.
        cache_file: JSON file of the cache.

    Returns:
        The cost for one slice of 256 x 256, or of the next size that the network accepts.
    """

    def measure() -> dict[str, Any]:
        multiple = candidate.config.meta_network().multiple
        side = -(-PROFILE_SIDE // multiple) * multiple  # rounded up
        counts = cost.count_cost(candidate.config, side, side)
        measured_cost = cost.measure_cost(run_folder / CONFIG_FILE, side, device, 1, counts)
        model_cost = ModelCost(
            parameters=counts.parameters,
            macs=training_macs(candidate),
            seconds_per_slice=measured_cost.seconds,
            inference_gib=measured_cost.inference_gib,
            training_gib=measured_cost.training_gib,
        )
        return asdict(model_cost)

    return ModelCost(**json_cache.cached(cache_file, throughput.device_key(candidate.key, device), measure))


def measure_costs(
    arms: MethodsByArm, failed: FailedRuns, options: ComparisonOptions
) -> tuple[dict[str, ModelCost], dict[str, str]]:
    """Measure the cost of every candidate whose runs have not failed.

    Args:
        arms: The methods of each arm.
        failed: The runs that failed.
        options: Output folder and device.

    Returns:
        Candidate -> cost, and candidate -> reason if the cost could not be measured.
    """
    costs: dict[str, ModelCost] = {}
    unmeasured: dict[str, str] = {}
    for method in list_methods(arms):
        name = method.candidate.name
        if name in costs or name in unmeasured or any(run.folder in failed for run in method.runs):
            continue
        try:
            run_folder = method.runs[0].folder
            costs[name] = measure_cost(method.candidate, run_folder, options.device, options.out / COSTS_FILE)
        except Exception as error:  # such as too little memory: the scores count all the same
            unmeasured[name] = str(error) or type(error).__name__
    return costs, unmeasured
