"""Kill a training with SIGKILL at random moments, run the same command again, and compare the ends bit by bit.

python benchmarks/kill_resume.py OUT [--kills 10] [--steps 120] [--seed 0] [--processes 1 2]

With one process, and with two under torchrun (gloo), on the CPU. Each run trains a tiny UNet on three copies of the
middle of the bundled phantom, saves its state every third step and validates every tenth. Per number of processes one
run is left alone; the other is killed, with everything it started, so many times: at a random moment within each of as
many random steps (of step 0: while it starts and reads). Its last start is left alone too. Then every tensor of state
and model is compared.
Prints a Markdown table; ends with exit code 1 where a bit differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import torch

from dsdiff.data import splits
from dsdiff.model import checkpoint
from dsdiff.training.metrics_logger import LOG, read_log
from dsdiff.training.resume import STATE

PHANTOM = Path(__file__).parents[2] / "src" / "dsdiff" / "assets" / "phantom" / "phantom-1011"
RECIPE = """
seed: 7
data: {root: %(cohort)s, split: %(split)s, fold: 0, crop: [64, 64], contrast_dropout: 0.2}
backbone:
  target: unet
  params: {model_channels: 32, channel_mult: [1, 2], num_res_blocks: 1, stem: 2, dropout: 0.1}
training: {steps: %(steps)d, batch_size: 2, accumulate: 2, warmup: 5, validate_every: 10, save_every: 3}
"""


def command(processes: int, recipe: Path, run: Path) -> list[str]:
    """The one command that begins a run and goes on with it."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(torchrun if processes > 1 else []), "-m", "dsdiff", "train", str(recipe), "-o", str(run)]


def start(line: list[str], log: Path) -> subprocess.Popen:
    """Start a command, with one thread a process."""
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(line, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=file, stderr=file)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL a process and all its descendants (Linux: torchrun gives its workers sessions of their own)."""
    found = [process.pid]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in children.read_text(encoding="utf-8").split()]
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def killed(line: list[str], run: Path, moments: list[int], rng: random.Random) -> list[int]:
    """Run and kill at these steps, then run to the end; returns the steps that the state was at after every kill."""
    steps: list[int] = []
    for moment in moments:
        process = start(line, run.with_suffix(".log"))
        while moment and process.poll() is None and (not (log := read_log(run / LOG)) or log[-1]["step"] < moment):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4 if moment else 5))
        if process.poll() is not None:
            raise SystemExit(f"{run} ended before it was killed: see {run.with_suffix('.log')}")
        kill(process)
        there = (run / STATE).is_file()
        steps.append(int(checkpoint.read_state(run / STATE)[1]["step"]) if there else 0)
        print(f"killed at log line {len(read_log(run / LOG))}, state at step {steps[-1]}", file=sys.stderr, flush=True)
    if code := start(line, run.with_suffix(".log")).wait():
        raise SystemExit(f"{run} ended with exit code {code}: see {run.with_suffix('.log')}")
    return steps


def differing(one: Path, other: Path) -> list[str]:
    """Names of the tensors of state and model that are not the same bits in two runs."""
    found = []
    for file in (STATE, f"model/{checkpoint.WEIGHTS}", f"best/{checkpoint.WEIGHTS}"):
        (a, facts), (b, others) = (checkpoint.read_state(run / file) for run in (one, other))
        found += [f"{file}: {name}" for name in a.keys() | b.keys() if not _same(a.get(name), b.get(name))]
        found += [f"{file}: facts"] if facts != others else []
    return found


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    cohort, split, recipe = (given.out / name for name in ("cohort", "split.json", "recipe.yaml"))
    for name in ("A", "B", "C"):
        (cohort / name).mkdir(parents=True)
        for file in PHANTOM.glob("*.nii.gz"):
            whole = nib.load(file)
            nib.save(whole.slicer[..., 60:100], cohort / name / file.name.replace(PHANTOM.name, name))
    splits.write(splits.make(["A", "B", "C"], 3, 0), split)
    recipe.write_text(RECIPE % {"cohort": cohort, "split": split, "steps": given.steps}, encoding="utf-8")
    rng, failed = random.Random(given.seed), False
    print("| processes | seconds left alone | killed at step | state then at step | tensors that differ |")
    print("|---" * 5 + "|")
    for processes in given.processes:
        alone, hunted = given.out / f"alone{processes}", given.out / f"killed{processes}"
        since = time.monotonic()
        if start(command(processes, recipe, alone), alone.with_suffix(".log")).wait():
            raise SystemExit(f"{alone} failed: see {alone.with_suffix('.log')}")
        seconds = time.monotonic() - since
        moments = sorted(rng.randrange(given.steps - 10) for _ in range(given.kills))
        steps = killed(command(processes, recipe, hunted), hunted, moments, rng)
        wrong = differing(alone, hunted)
        failed = failed or bool(wrong)
        hit, left = (", ".join(map(str, numbers)) for numbers in (moments, steps))
        print(f"| {processes} | {seconds:.0f} | {hit} | {left} | {len(wrong)} {' '.join(wrong[:3])} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
