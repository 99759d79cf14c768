"""Several processes under torchrun (gloo), as a user starts them: what they train, and what a kill leaves."""

import importlib.util
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
from rich.console import Console

from dsdiff.config import run as configs
from dsdiff.data import splits
from dsdiff.model import checkpoint
from dsdiff.training import loop, resume
from dsdiff.training.metrics_logger import LOG, read_log
from tests.toy_data import TINY, write_case

HERE = Path(__file__).parent
CPU, QUIET, LIMIT = torch.device("cpu"), Console(quiet=True), 900  # seconds, for what hangs on a busy machine
DIT = {
    "target": "dit",
    "params": {"hidden_size": 32, "depth": 2, "num_heads": 2, "image_size": [32, 48], "dropout": 0.1},
}
UNET = {"target": "unet", "params": {**TINY["backbone"]["params"], "dropout": 0.1}}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def kill_resume():
    spec = importlib.util.spec_from_file_location(
        "kill_resume", HERE.parents[1] / "scripts" / "benchmarks" / "kill_resume.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait(line, log):
    """Exit code of a command; one that hangs is killed with all that it started, and its last words are the failure."""
    kills = kill_resume()
    process = kills.start(line, log)
    try:
        return process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        kills.kill(process)
        pytest.fail(f"hangs after {LIMIT} s:\n{log.read_text()[-6000:]}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two patients, a split, and the recipe of every run below."""
    folder = tmp_path_factory.mktemp("processes")
    for seed in range(2):
        write_case(folder / "patients", f"P{seed}", seed)
    splits.write(splits.make(["P0", "P1"], 2, 0), folder / "split.json")
    data = {**TINY["data"], "root": str(folder / "patients"), "split": str(folder / "split.json"), "fold": 0}
    training = {**TINY["training"], "steps": 20, "validate_every": 20, "save_every": 5, "lr": 1e-3}
    for name, backbone in (("unet", UNET), ("dit", DIT)):
        values = {**TINY, "data": data, "backbone": backbone, "training": training}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="module")
def ends(folder):
    """DDP and FSDP2 of both backbones, in two processes that are started once."""
    runs = [(name, strategy) for name in ("unet", "dit") for strategy in ("ddp", "fsdp")]
    lines = [
        [
            "train",
            str(folder / f"{name}.yaml"),
            f"training.strategy={strategy}",
            "-o",
            str(folder / f"{name}-{strategy}"),
        ]
        for name, strategy in runs
    ]
    log = folder / "ends.log"
    assert wait([*TORCHRUN, str(HERE / "commands.py"), json.dumps(lines)], log) == 0, log.read_text()[-3000:]
    return {run: folder / "-".join(run) for run in runs}


@pytest.fixture(scope="module")
def alone(folder):
    """The same trainings by one process, whose batch goes through in two parts."""
    for name in ("unet", "dit"):
        config = configs.load(folder / f"{name}.yaml", ("training.accumulate=2",))
        loop.train(config, folder / name, CPU, QUIET)
    return {name: folder / name for name in ("unet", "dit")}


def weights(run):
    tensors, _ = checkpoint.read_state(run / resume.STATE)
    return {name: value for name, value in tensors.items() if name.startswith(("network", "ema"))}


@pytest.mark.parametrize("name", ["unet", "dit"])
@pytest.mark.parametrize(("strategy", "apart"), [("ddp", 1e-6), ("fsdp", 2e-3)])  # fsdp clips by a sum in another order
def test_two_processes_are_one_with_twice_the_parts(ends, alone, name, strategy, apart):
    a, b = weights(ends[name, strategy]), weights(alone[name])
    assert a.keys() == b.keys()
    assert max((a[key] - b[key]).abs().max().item() for key in a) <= apart
    logs = [read_log(run / LOG) for run in (ends[name, strategy], alone[name])]
    for one, other in zip(*logs, strict=True):
        assert one["step"] == other["step"]
        assert one.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-3)
        assert one.get("validation", 0) == pytest.approx(other.get("validation", 0), rel=1e-3)
    assert checkpoint.read(ends[name, strategy] / "best").facts["steps"] == 20


LEAVING = """
import os, sys, weakref
from pathlib import Path
import torch
import torch.distributed as dist
from rich.console import Console
from dsdiff import config as configs
from dsdiff.training import distributed, loop

made, wrap, leave = [], distributed.wrap, dist.destroy_process_group

def wrapped(*given):
    found = wrap(*given)
    made.append(weakref.ref(found))
    return found

def leaving():
    print("held" if made[-1]() else "free", flush=True)
    leave()

distributed.wrap, dist.destroy_process_group = wrapped, leaving
config = configs.load(sys.argv[1], ("training.strategy=ddp", "training.steps=1"))
loop.train(config, Path(sys.argv[2]), torch.device("cpu"), Console(quiet=True))
os._exit(0)  # as dsdiff does: gloo's threads can take a process down that has left its group
"""


def test_nothing_holds_the_group_when_it_is_left(folder):
    """Else torch closes it with DDP's reducer, keeping Python's lock from a thread that it waits for: a deadlock."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ended = subprocess.run(
        [sys.executable, "-c", LEAVING, folder / "unet.yaml", folder / "left"],
        env={**os.environ, **{name: str(value) for name, value in told.items()}},
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "free\n"), ended.stderr[-3000:]


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_run_again_it_ends_in_the_same_bits(folder, ends, alone, processes):
    """SIGKILL of the process, or of torchrun and all that it started, at a random moment after the first state."""
    kills, run, rng = kill_resume(), folder / f"killed{processes}", random.Random(processes)
    alike = "training.accumulate=2" if processes == 1 else "training.strategy=ddp"
    line = [*kills.command(processes, folder / "unet.yaml", run), alike]
    process = kills.start(line, run.with_suffix(".log"))
    since = time.monotonic()
    while not (run / resume.STATE).is_file() and time.monotonic() - since < LIMIT:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.3))
    kills.kill(process)
    assert checkpoint.read_state(run / resume.STATE)[1]["step"] < 20
    assert wait(line, run.with_suffix(".log")) == 0, run.with_suffix(".log").read_text()
    assert kills.differing(run, alone["unet"] if processes == 1 else ends["unet", "ddp"]) == []
