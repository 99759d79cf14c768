"""Several processes under torchrun (gloo), as a user starts them: the trained weights, and the files after a kill."""

import importlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from dsdiff.config.run import load_config
from dsdiff.io import splits
from dsdiff.model import checkpoint
from dsdiff.training import loop
from dsdiff.training.metrics_logger import LOG_FILE, read_log
from dsdiff.training.resume import STATE_FILE
from tests.toy_data import TINY_CONFIG, write_case

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
BENCHMARKS = HERE.parents[1] / "scripts" / "benchmarks"
CPU = torch.device("cpu")
TIMEOUT = 900  # seconds, of a command that hangs on a busy machine
DIT = {
    "target": "dit",
    "params": {"hidden_size": 32, "depth": 2, "num_heads": 2, "image_size": [32, 48], "dropout": 0.1},
}
UNET = {"target": "unet", "params": {**TINY_CONFIG["backbone"]["params"], "dropout": 0.1}}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def load_kill_resume():
    """Import the benchmark script, and what it imports from its folder."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module("kill_resume")


def run_command(command, log):
    """Run a command, and return its exit code; one that hangs is killed with its children, and the test fails."""
    kill_resume = load_kill_resume()
    process = kill_resume.start_command(command, log)
    try:
        return process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        kill_resume.kill_process_tree(process)
        pytest.fail(f"hangs after {TIMEOUT} s:\n{log.read_text()[-6000:]}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two patients, a split, and the recipe of every run below."""
    folder = tmp_path_factory.mktemp("processes")
    for seed in range(2):
        write_case(folder / "patients", f"P{seed}", seed)
    splits.write(splits.make(["P0", "P1"], 2, 0), folder / "split.json")
    data = {**TINY_CONFIG["data"], "root": str(folder / "patients"), "split": str(folder / "split.json"), "fold": 0}
    training = {**TINY_CONFIG["training"], "steps": 20, "validate_every": 20, "save_every": 5, "lr": 1e-3}
    for name, backbone in (("unet", UNET), ("dit", DIT)):
        values = {**TINY_CONFIG, "data": data, "backbone": backbone, "training": training}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="module")
def distributed_runs(folder):
    """DDP and FSDP2 of both backbones, in two processes that are started once."""
    runs = [(name, strategy) for name in ("unet", "dit") for strategy in ("ddp", "fsdp")]
    commands = []
    for name, strategy in runs:
        run_dir = folder / f"{name}-{strategy}"
        commands.append(["train", str(folder / f"{name}.yaml"), f"training.strategy={strategy}", "-o", str(run_dir)])

    log = folder / "distributed.log"
    exit_code = run_command([*TORCHRUN, str(HERE / "commands.py"), json.dumps(commands)], log)
    assert exit_code == 0, log.read_text()[-3000:]
    return {run: folder / "-".join(run) for run in runs}


@pytest.fixture(scope="module")
def single_runs(folder):
    """The same trainings by one process, in two parts per batch."""
    for name in ("unet", "dit"):
        config = load_config(folder / f"{name}.yaml", ("training.accumulate=2",))
        loop.train(config, folder / name, CPU)
    return {name: folder / name for name in ("unet", "dit")}


def read_weights(run_dir):
    tensors, _ = checkpoint.read_state(run_dir / STATE_FILE)
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("network", "ema"))}


@pytest.mark.parametrize("name", ["unet", "dit"])
@pytest.mark.parametrize(
    ("strategy", "tolerance"), [("ddp", 1e-6), ("fsdp", 2e-3)]
)  # fsdp sums the norm in another order
def test_two_processes_equal_one_with_twice_the_parts(distributed_runs, single_runs, name, strategy, tolerance):
    run_dirs = distributed_runs[name, strategy], single_runs[name]
    weights, single_weights = map(read_weights, run_dirs)
    assert weights.keys() == single_weights.keys()
    assert max((weights[key] - single_weights[key]).abs().max().item() for key in weights) <= tolerance

    logs = [read_log(run_dir / LOG_FILE) for run_dir in run_dirs]
    for entry, single_entry in zip(*logs, strict=True):
        assert entry["step"] == single_entry["step"]
        assert entry.get("loss", 0) == pytest.approx(single_entry.get("loss", 0), rel=1e-3)
        assert entry.get("validation", 0) == pytest.approx(single_entry.get("validation", 0), rel=1e-3)
    metadata = checkpoint.read_metadata(distributed_runs[name, strategy] / "best")
    assert (metadata.steps, metadata.processes) == (20, 2)


LEAVE_GROUP = """
import os, sys, weakref
from pathlib import Path
import torch
import torch.distributed as dist
from dsdiff.config.run import load_config
from dsdiff.system import distributed
from dsdiff.training import loop

references, wrap, destroy = [], distributed.wrap, dist.destroy_process_group

def wrap_and_reference(*args):
    module = wrap(*args)
    references.append(weakref.ref(module))
    return module

def report_and_destroy():
    print("alive" if references[-1]() else "released", flush=True)
    destroy()

distributed.wrap, dist.destroy_process_group = wrap_and_reference, report_and_destroy
config = load_config(sys.argv[1], ("training.strategy=ddp", "training.steps=1"))
loop.train(config, Path(sys.argv[2]), torch.device("cpu"))
os._exit(0)  # as dsdiff does: gloo's threads can crash a process that has left its group
"""


def test_the_wrapped_module_is_released_before_the_group_is_left(folder):
    """Else torch closes the group with DDP's reducer, and keeps Python's lock from a thread that it waits for."""
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    launcher = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    process = subprocess.run(
        [sys.executable, "-c", LEAVE_GROUP, folder / "unet.yaml", folder / "left"],
        env={**os.environ, **{name: str(value) for name, value in launcher.items()}},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (process.returncode, process.stdout) == (0, "released\n"), process.stderr[-3000:]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_resumes_to_the_same_bits(folder, distributed_runs, single_runs, processes):
    """SIGKILL of the process, or of torchrun and its children, at a random time after the first state."""
    kill_resume, run_dir, rng = load_kill_resume(), folder / f"killed{processes}", random.Random(processes)
    setting = "training.accumulate=2" if processes == 1 else "training.strategy=ddp"
    command = [*kill_resume.training_command(processes, folder / "unet.yaml", run_dir), setting]
    log = run_dir.with_suffix(".log")
    process = kill_resume.start_command(command, log)
    start_time = time.monotonic()
    while not (run_dir / STATE_FILE).is_file() and time.monotonic() - start_time < TIMEOUT:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.3))
    kill_resume.kill_process_tree(process)
    assert checkpoint.read_state(run_dir / STATE_FILE)[1]["step"] < 20

    assert run_command(command, log) == 0, log.read_text()
    uninterrupted_run = single_runs["unet"] if processes == 1 else distributed_runs["unet", "ddp"]
    assert kill_resume.differing_tensors(run_dir, uninterrupted_run) == []
