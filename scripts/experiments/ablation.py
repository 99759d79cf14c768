"""Measure the effect of each part of a recipe on real patients.

python scripts/experiments/ablation.py DATA OUT [--arms concat style ...] [--steps 500] [--hours 4]
python scripts/experiments/ablation.py DATA OUT --config bridge-small --arm plain
    --arm gamma data.augment.gamma.probability=0.3

Trains every arm with every seed and without every fold of the split, for the same number of steps, and scores the
patients of the held-out fold. Two trainings run at a time, with one thread each, in the order of seeds and folds, so
that the finished ones are balanced whenever the script stops. The same command resumes it; --hours limits its time.
Prints a Markdown table, also written to OUT/table.md: means over patients, each averaged over seeds, and differences to
the first arm by patient and seed, with 95 % intervals (`dsdiff.evaluation.statistics.compare_paired`).

The arms are the YAML files of configs/conditioning, which differ only in the conditioning block, or any others that
--arm defines. An arm with style conditioning is scored in the predicted style; with the T1ce of another patient of the
same collection as style reference (a stand-in for "same scanner", which the data do not record); and with its own T1ce
as reference, which is an upper bound. References are scored only for the first seed.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from ablation_scores import score_patients
from ablation_table import collect_scores, render_table

from dsdiff.config.run import load_config
from dsdiff.data import assemble_cohort
from dsdiff.inference.model import load_model
from dsdiff.io import splits
from dsdiff.system.atomic import atomic_write_text
from dsdiff.system.console import progress_bars
from dsdiff.training import loop

CONDITIONING_ARMS = ("concat", "encoder", "disentangle", "edges", "style", "all")
CONFIGS = Path(__file__).parents[2] / "configs" / "conditioning"
SCORES_FILE = "scores.json"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Arm:
    """A config and its changes.

    Attributes:
        name: Name of the arm.
        config: Name or path of the config.
        overrides: KEY=VALUE changes.
    """

    name: str
    config: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """One training of an arm."""

    arm: Arm
    seed: int
    fold: int

    def run_folder(self, out: Path) -> Path:
        """Name the folder of the training.

        Args:
            out: Output folder of the ablation.

        Returns:
            OUT/ARM/seedS/foldF.
        """
        return out / self.arm.name / f"seed{self.seed}" / f"fold{self.fold}"


@dataclass(frozen=True)
class AblationOptions:
    """What all trainings share.

    Attributes:
        data: A store or a folder of cases.
        split: Split file.
        out: Output folder.
        overrides: KEY=VALUE changes of all arms.
        max_patients: Number of patients of each fold to score at most.
        end_time: No training starts after this time, in seconds since the epoch.
        reference_seed: Style references are scored only for this seed.
    """

    data: Path
    split: Path
    out: Path
    overrides: tuple[str, ...]
    max_patients: int
    end_time: float
    reference_seed: int


def train_and_score(training: Training, options: AblationOptions) -> None:
    """Train one arm without one fold, and score the patients of the fold, unless this is done or it is too late.

    Args:
        training: Arm, seed and fold.
        options: What all trainings share.

    Raises:
        ConfigError: The run folder belongs to another config.
    """
    torch.set_num_threads(1)
    run_folder = training.run_folder(options.out)
    overrides = (
        f"data.root={options.data}",
        f"data.split={options.split}",
        f"data.fold={training.fold}",
        f"seed={training.seed}",
        *options.overrides,
        *training.arm.overrides,
    )
    config = load_config(training.arm.config, overrides)
    loop.init_run_dir(run_folder, config)
    held_out_names = splits.read(options.split).held_out(training.fold)
    scored_names = held_out_names[: options.max_patients]
    if is_scored(run_folder, scored_names) or time.time() > options.end_time:
        return

    start = time.process_time()
    model_folder = loop.train(config, run_folder, CPU)
    minutes = (time.process_time() - start) / 60

    model = load_model(model_folder, CPU)
    patients = {patient.name: patient for patient in assemble_cohort.read_patients(options.data, config.data)}
    held_out = [patients[name] for name in held_out_names]
    scored = [patients[name] for name in scored_names]
    with_references = training.seed == options.reference_seed
    content = {"minutes": minutes, "variants": score_patients(scored, held_out, model, with_references)}
    atomic_write_text(run_folder / SCORES_FILE, json.dumps(content))


def is_scored(run_folder: Path, names: Sequence[str]) -> bool:
    """Check whether patients are scored. Scores of fewer patients, from a quick look, do not count.

    Args:
        run_folder: Folder of the training.
        names: Names of the patients.

    Returns:
        True if all of them are scored.
    """
    file = run_folder / SCORES_FILE
    return file.is_file() and set(names) <= set(json.loads(file.read_text(encoding="utf-8"))["variants"][""])


def run_trainings(trainings: list[Training], options: AblationOptions, workers: int) -> list[Training]:
    """Run all trainings in several processes.

    Args:
        trainings: The trainings, in the order in which to start them.
        options: What they share.
        workers: Number of processes.

    Returns:
        The trainings that failed.
    """
    failed = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as executor, progress_bars(count=True) as report_progress:
        report_progress("ablation", 0, len(trainings))
        futures = {executor.submit(train_and_score, training, options): training for training in trainings}
        for n_finished, future in enumerate(as_completed(futures), 1):
            if error := future.exception():
                failed.append(futures[future])
                print(f"{futures[future].run_folder(options.out)}: {error}", flush=True)
            report_progress("ablation", n_finished, len(trainings))
    return failed


def read_scores(trainings: list[Training], out: Path) -> dict[str, dict[str, Any]]:
    """Read the scores of finished trainings.

    Args:
        trainings: The trainings.
        out: Output folder.

    Returns:
        "ARM/seedS/foldF" -> content of scores.json.
    """
    contents = {}
    for training in trainings:
        file = training.run_folder(out) / SCORES_FILE
        if file.is_file():
            name = str(training.run_folder(out).relative_to(out))
            contents[name] = json.loads(file.read_text(encoding="utf-8"))
    return contents


def create_parser() -> argparse.ArgumentParser:
    """Create the parser of the arguments.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, nargs="?", help="folder of cases, or a store (dsdiff prepare), which is faster"
    )
    parser.add_argument("out", type=Path, nargs="?", help="output folder")
    parser.add_argument("--scores", type=Path, help="instead of DATA OUT: JSON file with scores; print only its table")
    parser.add_argument("--split", type=Path, default=Path("models/split.json"), help="split file")
    parser.add_argument("--arms", nargs="+", default=list(CONDITIONING_ARMS), choices=CONDITIONING_ARMS)
    parser.add_argument("--config", default="bridge-small", help="config of the arms that --arm defines")
    parser.add_argument(
        "--arm", nargs="+", action="append", metavar="NAME [KEY=VALUE]", help="an arm of --config; repeat for more"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--folds", nargs="+", type=int, help="default: all folds of the split")
    parser.add_argument("--steps", type=int, default=500, help="training steps")
    parser.add_argument("--patients", type=int, default=10**6, help="patients of each fold to score at most")
    parser.add_argument("--hours", type=float, default=4.0, help="start no training after this time")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, with one thread each")
    return parser


def main() -> None:
    """Run the experiment."""
    parser = create_parser()
    args = parser.parse_args()
    split = splits.read(args.split)
    title = f"Split `{split.hash}`, {args.steps} steps"
    if args.scores is not None:
        contents = json.loads(args.scores.read_text(encoding="utf-8"))
        print(render_table(*collect_scores(contents), title, args.arms[0]))
        return
    if args.out is None:
        parser.error("give DATA and OUT, or --scores")

    arms = [Arm(name, str(CONFIGS / f"{name}.yaml")) for name in args.arms]
    if args.arm:
        arms = [Arm(name, args.config, tuple(overrides)) for name, *overrides in args.arm]
    options = AblationOptions(
        data=args.data,
        split=args.split,
        out=args.out,
        overrides=(f"training.steps={args.steps}", f"training.validate_every={args.steps}"),
        max_patients=args.patients,
        end_time=time.time() + 3600 * args.hours,
        reference_seed=args.seeds[0],
    )
    folds = args.folds or range(len(split.folds))
    trainings = [Training(arm, seed, fold) for seed, fold, arm in product(args.seeds, folds, arms)]
    failed = run_trainings(trainings, options, args.workers)
    if time.time() > options.end_time:
        print(f"stopped after {args.hours} hours; the same command resumes", flush=True)

    contents = read_scores([training for training in trainings if training not in failed], args.out)
    table = render_table(*collect_scores(contents), title, arms[0].name)
    atomic_write_text(args.out / "table.md", table + "\n")
    print(table)
    if failed:
        sys.exit(f"{len(failed)} trainings failed; the same command tries them again")


if __name__ == "__main__":
    main()
