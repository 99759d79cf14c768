"""What each part of a recipe is worth on real patients: python benchmarks/ablation.py DATA OUT

Trains every arm with every seed without every fold of the split, for the same number of steps, and scores the patients
of that fold. Two trainings run at a time, one thread each, seed by seed and fold by fold, so that what is there is
balanced whenever it stops; the same command goes on where it was stopped, and --hours stops it by itself. Ends with a
table (Markdown, also in OUT/table.md): means over patients, each averaged over seeds, and the difference from the first
arm patient by patient and seed by seed, with 95 % intervals (`dsdiff.evaluation.statistics.paired`).

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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from dsdiff.config import run as configs
from dsdiff.data import dataloader, splits
from dsdiff.data.dataset import Patient
from dsdiff.evaluation import brain_scores, statistics
from dsdiff.inference import model as models
from dsdiff.inference.model import Model
from dsdiff.io.cases import patient_of
from dsdiff.style.regression import Code
from dsdiff.system.atomic import write_whole
from dsdiff.system.console import bars
from dsdiff.training import loop
from dsdiff.training.validate import score

CONDITIONING = ("concat", "encoder", "disentangle", "structure", "style", "all")
CONFIGS = Path(__file__).parents[2] / "configs" / "conditioning"
Found = dict[str, dict[str, float]]  # patient -> score -> value
BySeed = dict[int, Found]


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
    wanted = splits.read(places.split).held_out(fold)[:most]
    if scored(place, wanted) or time.time() > ends:
        return
    since = time.process_time()
    folder = loop.train(config, place, torch.device("cpu"), Console(quiet=True))
    minutes, model = (time.process_time() - since) / 60, models.load(folder, torch.device("cpu"))
    known = {patient.name: patient for patient in dataloader.read(places.data, config.data, Console(quiet=True))}
    held_out = [known[name] for name in splits.read(places.split).held_out(fold)]
    facts = {"minutes": minutes, "variants": score_all(held_out, wanted, model, references)}
    write_whole(place / "scores.json", json.dumps(facts))


def scored(place: Path, wanted: Sequence[str]) -> bool:
    """Whether all of these patients have been scored: a quick look at fewer is no result."""
    file = place / "scores.json"
    return file.is_file() and set(wanted) <= set(json.loads(file.read_text(encoding="utf-8"))["variants"][""])


def score_all(held_out: list[Patient], wanted: Sequence[str], model: Model, references: bool) -> dict[str, Found]:
    """Scores of the wanted patients in the style to be expected and, for a model that is told one, in those of two
    references, if they are asked for.
    """
    found: dict[str, Found] = {}
    for patient in (one for one in held_out if one.name in wanted):
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
    after = alike[alike.index(patient) + 1 :] + alike[: alike.index(patient)]
    return next((other for other in after if patient_of(other.name) != patient_of(patient.name)), None)


def gathered(kept: dict[str, dict[str, Any]]) -> tuple[dict[str, BySeed], dict[str, float]]:
    """Scores of every arm and variant by seed and patient, and mean minutes of CPU time a training, from what trainings
    left (`arm/seedS/foldK` -> scores.json).
    """
    found: dict[str, BySeed] = {}
    minutes: dict[str, list[float]] = {}
    for place, facts in kept.items():
        arm, seed, _ = place.rsplit("/", 2)
        minutes.setdefault(arm, []).append(facts["minutes"])
        for variant, scored in facts["variants"].items():
            found.setdefault(arm + variant, {}).setdefault(int(seed.removeprefix("seed")), {}).update(scored)
    return found, {arm: float(np.mean(spent)) for arm, spent in minutes.items()}


def matrix(found: BySeed, seeds: list[int], patients: list[str], score: str) -> np.ndarray:
    """One score as seeds x patients, NaN where there is none."""
    nan = float("nan")
    return np.array([[found[seed].get(patient, {}).get(score, nan) for patient in patients] for seed in seeds], float)


def table(found: dict[str, BySeed], minutes: dict[str, float], steps: int, hash: str, first: str) -> str:
    """Means with 95 % intervals over patients, then the differences from the first arm, under the seeds of both."""
    found = {arm: found[arm] for arm in sorted(found, key=lambda arm: arm != first)}  # stable
    everyone = {arm: sorted({p for scored in by_seed.values() for p in scored}) for arm, by_seed in found.items()}
    head = f"| {{}} | {' | '.join(brain_scores.SCORES)} | CPU min |"
    told = ", ".join(f"{arm} {len(everyone[arm])} x {len(by_seed)}" for arm, by_seed in found.items())
    lines = [
        f"Split `{hash}`, {steps} steps; patients x seeds: {told}",
        "",
        head.format("mean [95 % interval]"),
        "|---" * (len(brain_scores.SCORES) + 2) + "|",
    ]
    for arm, by_seed in found.items():
        values = {s: matrix(by_seed, sorted(by_seed), everyone[arm], s).mean(0).tolist() for s in brain_scores.SCORES}
        cells = [_cell(*statistics.interval(values[s]), s) for s in brain_scores.SCORES]
        lines.append(f"| {arm} | {' | '.join(cells)} | {minutes.get(arm, float('nan')):.1f} |")
    lines += ["", head.format(f"minus {first}, patient by patient").replace(" CPU min |", ""), lines[3][:-4]]
    others = [arm for arm in found if arm != first]
    columns = {s: differences(found, everyone, others, first, s) for s in brain_scores.SCORES} if first in found else {}
    for k, arm in enumerate(others if columns else []):
        lines.append(f"| {arm} | {' | '.join(columns[s][k] for s in brain_scores.SCORES)} |")
    return "\n".join([*lines, "", "Bold: the interval leaves 0 out, and Holm's p over the rows is below 0.05."])


def differences(
    found: dict[str, BySeed], everyone: dict[str, list[str]], others: list[str], first: str, score: str
) -> list[str]:
    """Cells of one score: each arm minus the first, on the patients and under the seeds that both have."""
    told = []
    for arm in others:
        patients = [name for name in everyone[arm] if name in everyone[first]]
        seeds = sorted(set(found[arm]) & set(found[first]))
        pair = [matrix(found[which], seeds, patients, score) for which in (arm, first)]
        try:
            told.append(statistics.paired(*pair, family=len(others), same_seeds=True))
        except ValueError:  # fewer than two patients have the score
            return ["-"] * len(others)
    sure = [p < 0.05 for p in statistics.holm([one.p for one in told])]
    return [
        f"**{cell}**" if found_it and not one.low <= 0 <= one.high else cell
        for one, found_it in zip(told, sure, strict=True)
        for cell in [_cell(one.mean, one.low, one.high, score)]
    ]


def _cell(mean: float, low: float, high: float, name: str) -> str:
    digits = 2 if name.startswith("psnr") else 3
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="a folder of cases, or a store (dsdiff prepare): faster")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--kept", type=Path, help="in place of DATA OUT: a JSON of what trainings left, for its table")
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
    if args.kept is not None:
        kept = json.loads(args.kept.read_text(encoding="utf-8"))
        print(table(*gathered(kept), args.steps, split.hash, args.arms[0]))
        return
    if args.out is None:
        parser.error("needed are DATA and OUT, or --kept")
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
    names = [f"{arm.name}/seed{seed}/fold{fold}" for arm, seed, fold in todo if (arm, seed, fold) not in failed]
    files = {name: args.out / name / "scores.json" for name in names}
    kept = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    told = table(*gathered(kept), args.steps, split.hash, arms[0].name)
    write_whole(args.out / "table.md", told + "\n")
    print(told)
    if failed:
        sys.exit(f"{len(failed)} trainings failed; the same command tries them again")


if __name__ == "__main__":
    main()
