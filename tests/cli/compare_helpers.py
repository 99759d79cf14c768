"""Calls of dsdiff compare on tiny networks and patients. Jobs run in the test's process, so that they can be stopped."""

import json
from itertools import count
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from dsdiff.comparison import runner, scoring, throughput
from dsdiff.profiling import cost
from dsdiff.profiling.cost import MeasuredCost
from dsdiff.training import loop
from dsdiff.training.validate import Validation
from tests.toy_data import run_command


def run_jobs_inline(patch: pytest.MonkeyPatch) -> None:
    """Run jobs in this process, and replace all measurements by constants."""
    for module in (runner, throughput):
        patch.setattr(module, "run_in_subprocess", lambda job, *args, threads=1: job(*args))
    for module in (scoring, throughput):
        patch.setattr(module, "select_clock", lambda _: count(0.0, 5.0).__next__)
    patch.setattr(throughput, "measure_seconds_per_step", lambda *_: 0.5)
    patch.setattr(loop, "validate", lambda *_: Validation(0.0, 0, {}))
    patch.setattr(cost, "measure_cost", lambda *_: MeasuredCost(0.5, 0.25, None))


def run_compare(patch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of dsdiff compare."""
    return run_command(patch, "compare", *arguments, "--device", "cpu", "--jobs", "1")


def training_arguments(inputs: Path, *names: str) -> tuple[object, ...]:
    """Arguments that train some of the candidates for 4 steps with one seed."""
    files = [inputs / f"{name}.yaml" for name in names]
    return (*files, "--data", inputs / "patients", "--split", inputs / "split.json", "--steps", 4, "--seeds", 1)


def copy_comparison(comparison: Path, target: Path) -> Path:
    """Copy a comparison so that it can be resumed: the configs of its runs contain the path of the store."""
    copytree(comparison, target)
    for config in (target / "runs").glob("*/*/config.yaml"):
        config.write_text(config.read_text().replace(str(comparison), str(target)))
    return target


def read_results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def method_names(arm: dict[str, Any]) -> list[str]:
    return [method["name"] for method in arm["methods"]]


def forbid_training(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loop, "train", lambda *_, **__: pytest.fail("a run is trained"))
