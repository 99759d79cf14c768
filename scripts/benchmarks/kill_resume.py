"""Kill a training with SIGKILL at random moments, resume it each time, and compare the result bit by bit.

python scripts/benchmarks/kill_resume.py OUT [--kills 10] [--steps 120] [--seed 0] [--processes 1 2]

Trains a tiny UNet on three copies of the middle of the bundled phantom, on the CPU: with one process, and with two
under torchrun (gloo). A run saves its state every third step and validates every tenth. For each number of processes
one run is never interrupted. The other is killed with all its child processes: at a random moment within each of
--kills random steps (step 0: while it starts and reads). Then every tensor of state and model is compared. Prints a
Markdown table. Exit code 1 means that a bit differs.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import torch
from benchmark_files import create_parser

from dsdiff.io import splits
from dsdiff.model import checkpoint
from dsdiff.training.metrics_logger import LOG_FILE, read_log
from dsdiff.training.resume import STATE_FILE

PHANTOM = Path(__file__).parents[2] / "src" / "dsdiff" / "assets" / "phantom" / "phantom-1011"
CASE_NAMES = ("A", "B", "C")
RECIPE = """
seed: 7
data: {root: %(cohort)s, split: %(split)s, fold: 0, crop: [64, 64], contrast_dropout: 0.2}
backbone:
  target: unet
  params: {model_channels: 32, channel_mult: [1, 2], num_res_blocks: 1, stem: 2, dropout: 0.1}
training: {steps: %(steps)d, batch_size: 2, accumulate: 2, warmup: 5, validate_every: 10, save_every: 3}
"""


def training_command(n_processes: int, recipe: Path, run: Path) -> list[str]:
    """Build the command that starts a run and resumes it.

    Args:
        n_processes: Number of processes.
        recipe: Config file.
        run: Run folder.

    Returns:
        Arguments of the command.
    """
    launcher = []
    if n_processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    return [sys.executable, *launcher, "-m", "dsdiff", "train", str(recipe), "-o", str(run)]


def start_command(command: list[str], log: Path) -> subprocess.Popen:
    """Start a command with one thread per process.

    Args:
        command: Arguments of the command.
        log: File that gets its output.

    Returns:
        The process.
    """
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=file, stderr=file)


def kill_process_tree(process: subprocess.Popen) -> None:
    """Kill a process and all its descendants (on Linux: torchrun starts its workers in new sessions).

    Args:
        process: The process.
    """
    pids = [process.pid]
    for pid in pids:  # grows while it is read
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            pids += [int(child) for child in children.read_text(encoding="utf-8").split()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def run_with_kills(command: list[str], run: Path, kill_steps: list[int], rng: random.Random) -> list[int]:
    """Run a training, kill it at some steps, and run it to its end.

    Args:
        command: Arguments of the command.
        run: Run folder.
        kill_steps: Steps at which to kill it, in ascending order.
        rng: Chooses the moment within a step.

    Returns:
        Step of the saved state after every kill.
    """
    log, metrics_file = run.with_suffix(".log"), run / LOG_FILE
    state_steps: list[int] = []
    for kill_step in kill_steps:
        process = start_command(command, log)
        while kill_step and process.poll() is None and last_logged_step(metrics_file) < kill_step:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4 if kill_step else 5))
        if process.poll() is not None:
            raise SystemExit(f"{run} ended before it was killed: see {log}")

        kill_process_tree(process)
        state_steps.append(saved_step(run / STATE_FILE))
        n_logged = len(read_log(metrics_file))
        print(f"killed at log line {n_logged}, state at step {state_steps[-1]}", file=sys.stderr, flush=True)

    if exit_code := start_command(command, log).wait():
        raise SystemExit(f"{run} ended with exit code {exit_code}: see {log}")
    return state_steps


def last_logged_step(metrics_file: Path) -> int:
    """Read the last step of a log.

    Args:
        metrics_file: log.jsonl of a run; it need not exist.

    Returns:
        The step; -1 if nothing is logged.
    """
    rows = read_log(metrics_file)
    return rows[-1]["step"] if rows else -1


def saved_step(state: Path) -> int:
    """Read the step of a saved state.

    Args:
        state: The state of a run; it need not exist.

    Returns:
        The step; 0 if nothing is saved.
    """
    return int(checkpoint.read_state(state)[1]["step"]) if state.is_file() else 0


def differing_tensors(run: Path, other_run: Path) -> list[str]:
    """Compare state and models of two runs bit by bit.

    Args:
        run: A run folder.
        other_run: Another run folder.

    Returns:
        Names of tensors and metadata that differ.
    """
    differences = []
    for file in (STATE_FILE, f"model/{checkpoint.WEIGHTS_FILE}", f"best/{checkpoint.WEIGHTS_FILE}"):
        tensors, fields = checkpoint.read_state(run / file)
        other_tensors, other_fields = checkpoint.read_state(other_run / file)
        for name in tensors.keys() | other_tensors.keys():
            if not is_same_tensor(tensors.get(name), other_tensors.get(name)):
                differences.append(f"{file}: {name}")
        if fields != other_fields:
            differences.append(f"{file}: metadata")
    return differences


def is_same_tensor(tensor: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    """Compare two tensors bit by bit.

    Args:
        tensor: A tensor; None if it is missing.
        second: Another tensor; None if it is missing.

    Returns:
        True if both exist and are equal.
    """
    return tensor is not None and second is not None and torch.equal(tensor, second)


def write_inputs(out: Path, steps: int) -> Path:
    """Write three cases, a split and the config.

    Args:
        out: Output folder.
        steps: Training steps.

    Returns:
        Path of the config.
    """
    cohort, split, recipe = (out / name for name in ("cohort", "split.json", "recipe.yaml"))
    for name in CASE_NAMES:
        (cohort / name).mkdir(parents=True)
        for file in PHANTOM.glob("*.nii.gz"):
            middle = nib.load(file).slicer[..., 60:100]
            nib.save(middle, cohort / name / file.name.replace(PHANTOM.name, name))
    splits.write(splits.make(list(CASE_NAMES), 3, 0), split)
    recipe.write_text(RECIPE % {"cohort": cohort, "split": split, "steps": steps}, encoding="utf-8")
    return recipe


def main() -> None:
    """Run the benchmark."""
    parser = create_parser(__doc__)
    parser.add_argument("out", type=Path, help="folder of the runs; it must not exist")
    parser.add_argument("--kills", type=int, default=10, help="number of kills of each run")
    parser.add_argument("--steps", type=int, default=120, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    args = parser.parse_args()

    recipe = write_inputs(args.out, args.steps)
    rng = random.Random(args.seed)
    has_differences = False
    print("| processes | seconds without kills | killed at step | saved step | tensors that differ |")
    print("|---" * 5 + "|")
    for n_processes in args.processes:
        reference, killed = args.out / f"reference{n_processes}", args.out / f"killed{n_processes}"
        start = time.monotonic()
        log = reference.with_suffix(".log")
        if start_command(training_command(n_processes, recipe, reference), log).wait():
            raise SystemExit(f"{reference} failed: see {log}")
        seconds = time.monotonic() - start

        kill_steps = sorted(rng.randrange(args.steps - 10) for _ in range(args.kills))
        state_steps = run_with_kills(training_command(n_processes, recipe, killed), killed, kill_steps, rng)
        differences = differing_tensors(reference, killed)
        has_differences = has_differences or bool(differences)
        kill_cell, state_cell = ", ".join(map(str, kill_steps)), ", ".join(map(str, state_steps))
        difference_cell = f"{len(differences)} {' '.join(differences[:3])}"
        print(f"| {n_processes} | {seconds:.0f} | {kill_cell} | {state_cell} | {difference_cell} |", flush=True)
    sys.exit(has_differences)


if __name__ == "__main__":
    main()
