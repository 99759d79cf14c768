"""What each part of a recipe is worth on real patients: python benchmarks/ablation.py DATA OUT

Trains every arm with every seed without every fold of the split, for the same number of steps, and scores the patients
of that fold. Two trainings run at a time, one thread each, seed by seed and fold by fold, so that what is there is
balanced whenever it stops; the same command goes on where it was stopped, and --hours stops it by itself. Ends with a
table (Markdown, also in OUT/table.md): means over patients, each averaged over seeds, and the difference from the first
arm patient by patient, with 95 % bootstrap intervals.

The arms are the YAML files of configs/conditioning, which differ in the conditioning block alone, or any others:

    ablation.py DATA OUT --config bridge-small --arm plain --arm gamma data.augment.gamma.probability=0.3

Arms that are told a style are scored in the one to be expected, with the T1ce of another patient of the same
collection as reference (a stand-in for "same scanner", which the data do not say), and with the own: an upper bound.
References are scored under the first seed alone.
"""

import argparse
import json
import multiprocessing
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from dsdiff import config as configs
from dsdiff.data import loader, splits
from dsdiff.data.cohort import Patient
from dsdiff.data.style import Code
from dsdiff.evaluation import scores, statistics
from dsdiff.inference import model as models
from dsdiff.inference.model import Model
from dsdiff.progress import bars
from dsdiff.training import loop
from dsdiff.training.validate import score

CONDITIONING = ("concat", "encoder", "disentangle", "structure", "style", "all")
CONFIGS = Path(__file__).parents[1] / "configs" / "conditioning"
Found = dict[str, dict[str, float]]  # patient (or variant) -> score -> value


@dataclass(frozen=True)
class Arm:
    """A config by name or file, and what is changed in it."""

    name: str
    config: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Places:
    """Where the patients are, as a store or a folder of cases; their split; and where results go."""

    data: Path
    split: Path
    out: Path


def job(
    arm: Arm, seed: int, fold: int, places: Places, overrides: list[str], most: int, ends: float, references: bool
) -> None:
    """Train one arm without one fold, and score the fold's patients; both only where not done before, nor too late.

    Raises `ConfigError` where what was done before was another config's.
    """
    torch.set_num_threads(1)
    place = places.out / arm.name / f"seed{seed}" / f"fold{fold}"
    given = (f"data.root={places.data}", f"data.split={places.split}", f"data.fold={fold}")
    config = configs.load(arm.config, (*given, f"seed={seed}", *overrides, *arm.changes))
    loop.claim(place, config)
    if (place / "scores.json").is_file() or time.time() > ends:
        return
    since = time.process_time()
    folder = loop.train(config, place, torch.device("cpu"), Console(quiet=True))
    minutes, model = (time.process_time() - since) / 60, models.load(folder, torch.device("cpu"))
    known = {patient.name: patient for patient in loader.read(places.data, config.data, Console(quiet=True))}
    held_out = [known[name] for name in splits.read(places.split).held_out(fold)]
    facts = {"minutes": minutes, "variants": score_all(held_out, model, most, references)}
    (place / "scores.json").write_text(json.dumps(facts))


def score_all(held_out: list[Patient], model: Model, most: int, references: bool) -> dict[str, Found]:
    """Scores of `most` patients in the style to be expected and, for a model that is told one, in those of two
    references, if they are asked for.
    """
    found: dict[str, Found] = {}
    for patient in held_out[:most]:
        told = styles(patient, held_out, model)
        for variant, code in (told if references else {"": told[""]}).items():
            found.setdefault(variant, {})[patient.name] = score(model, patient, code)
    return found


def styles(patient: Patient, others: list[Patient], model: Model) -> dict[str, Code | None]:
    """The styles that a patient is synthesised in, by what is to be said of them."""
    kind = model.config.conditioning.style
    if kind == "none":
        return {"": None}
    told: dict[str, Code | None] = {"": model.nearest.code(patient.measured) if model.nearest else None}
    told[", own reference"] = patient.slices.style(kind).weights
    if other := neighbour(patient, others):
        told[", other reference"] = other.slices.style(kind).weights
    return told


def neighbour(patient: Patient, others: list[Patient]) -> Patient | None:
    """The next patient of the same collection, by the letters that names begin with."""
    collection = re.split(r"\d{3,}|_[A-Z]{3}_\d", patient.name)[0]
    alike = [other for other in others if other.name.startswith(collection)]
    return alike[(alike.index(patient) + 1) % len(alike)] if len(alike) > 1 else None


def gathered(out: Path, done: list[tuple[Arm, int, int]]) -> tuple[dict[str, Found], dict[str, float]]:
    """Scores of every arm and variant by patient, averaged over seeds, and mean minutes of CPU time a training."""
    raw: dict[str, dict[str, list[dict[str, float]]]] = {}
    minutes: dict[str, list[float]] = {}
    for arm, seed, fold in done:
        path = out / arm.name / f"seed{seed}" / f"fold{fold}" / "scores.json"
        if path.is_file():
            facts = json.loads(path.read_text())
            minutes.setdefault(arm.name, []).append(facts["minutes"])
            for variant, found in facts["variants"].items():
                for patient, one in found.items():
                    raw.setdefault(arm.name + variant, {}).setdefault(patient, []).append(one)
    means = {
        arm: {p: {s: float(np.mean([one[s] for one in ones])) for s in scores.SCORES} for p, ones in patients.items()}
        for arm, patients in raw.items()
    }
    return means, {arm: float(np.mean(spent)) for arm, spent in minutes.items()}


def table(means: dict[str, Found], minutes: dict[str, float], n_seeds: int, steps: int, hash: str, first: str) -> str:
    """Means with 95 % intervals over patients, then the differences from the first arm."""
    head = f"| {{}} | {' | '.join(scores.SCORES)} | CPU min |"
    lines = [
        f"Split `{hash}`, {steps} steps, {n_seeds} seeds (references: the first); patients scored: "
        + ", ".join(f"{arm} {len(found)}" for arm, found in means.items()),
        "",
        head.format("mean [95 % interval]"),
        "|---" * (len(scores.SCORES) + 2) + "|",
    ]
    for arm, found in means.items():
        cells = [_cell([one[s] for one in found.values()], s) for s in scores.SCORES]
        lines.append(f"| {arm} | {' | '.join(cells)} | {minutes.get(arm, float('nan')):.1f} |")
    lines += ["", head.format(f"minus {first}, patient by patient").replace(" CPU min |", ""), lines[3][:-4]]
    base = means.get(first, {})
    for arm, found in means.items():
        both = [name for name in found if name in base]
        if arm != first and both:
            cells = [_cell([found[name][s] - base[name][s] for name in both], s) for s in scores.SCORES]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], name: str) -> str:
    mean, low, high = statistics.interval(values)
    digits = 2 if name.startswith("psnr") else 3
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of cases, or a store (dsdiff prepare), which is faster")
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", type=Path, default=Path("models/split.json"))
    parser.add_argument("--arms", nargs="+", default=list(CONDITIONING), choices=CONDITIONING)
    parser.add_argument("--config", default="bridge-small", help="what the arms of --arm begin with")
    parser.add_argument(
        "--arm", nargs="+", action="append", metavar="NAME [KEY=VALUE]", help="an arm of --config; may be given again"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--folds", nargs="+", type=int, help="default: all of the split")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--patients", type=int, default=10**6, help="to score of each fold at most, for a quick look")
    parser.add_argument("--hours", type=float, default=4.0, help="begin no training after so long")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    split = splits.read(args.split)
    overrides = [f"training.steps={args.steps}", f"training.validate_every={args.steps}"]
    places = Places(args.data, args.split, args.out)
    ends = time.time() + 3600 * args.hours
    arms = [Arm(name, str(CONFIGS / f"{name}.yaml")) for name in args.arms]
    if args.arm:
        arms = [Arm(name, args.config, tuple(changes)) for name, *changes in args.arm]
    each = product(args.seeds, args.folds or range(len(split.folds)), arms)
    todo = [(arm, seed, fold) for seed, fold, arm in each]
    context, failed = multiprocessing.get_context("spawn"), []
    with ProcessPoolExecutor(args.workers, context) as pool, bars(Console(stderr=True), count=True) as progress:
        task = progress.add_task("ablation", total=len(todo))
        running = {
            pool.submit(job, *one, places, overrides, args.patients, ends, one[1] == args.seeds[0]): one for one in todo
        }
        for done in as_completed(running):
            if error := done.exception():
                failed.append(running[done])
                print(f"{running[done]}: {error}", flush=True)
            progress.advance(task)
    if time.time() > ends:
        print(f"stopped after {args.hours} hours; the same command goes on", flush=True)
    means, minutes = gathered(args.out, [one for one in todo if one not in failed])
    args.out.mkdir(parents=True, exist_ok=True)
    told = table(means, minutes, len(args.seeds), args.steps, split.hash, arms[0].name)
    (args.out / "table.md").write_text(told + "\n")
    print(told)
    if failed:
        sys.exit(f"{len(failed)} trainings failed; the same command tries them again")


if __name__ == "__main__":
    main()
