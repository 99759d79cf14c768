"""Train every small backbone for the same CPU time on phantoms, and synthesise a real patient with each.

python benchmarks/backbones.py PHANTOMS CASE OUT [--minutes 3] [--only NAME ...]

Every configs/backbones/NAME-small.yaml goes through one command (it is printed), which differs in `backbone=` and in
the steps that the CPU time allows. PHANTOMS come from `dsdiff phantom PHANTOMS -n 18 --seed 101`; a third of them is
kept for validation. CASE is a patient's folder with its T1ce. Everything is kept in OUT, and the same command goes on
where it was stopped. Ends with a table (Markdown) and a picture.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from dsdiff.comparison import throughput
from dsdiff.config import run as configs
from dsdiff.data import splits
from dsdiff.errors import ConfigError
from dsdiff.evaluation import brain_scores
from dsdiff.evaluation.regions import regions
from dsdiff.inference import model as models
from dsdiff.inference.pipeline import run
from dsdiff.io import cases
from dsdiff.io.segmentation import enhancing_label
from dsdiff.preprocessing import normalize
from dsdiff.reporting import preview, slice_views
from dsdiff.volume import to_canonical

RECIPE = Path("configs/bridge-small.yaml")
BACKBONES = Path("configs/backbones")


def command(name: str, steps: int, phantoms: Path, out: Path) -> list[str]:
    """The training of one backbone."""
    backbone = BACKBONES / f"{name}-small.yaml"
    overrides = (
        f"backbone={backbone} data.root={phantoms} data.split={out / 'split.json'} data.fold=0 data.phantom_fraction=0 "
        "data.target_style=own "
        f"training.steps={steps} training.warmup=30 training.validate_every={max(1, steps // 4)}"
    )
    program = "from dsdiff.cli.main import run; run()"
    return [sys.executable, "-c", program, "train", str(RECIPE), *overrides.split(), "-o", str(out / name)]


def train(name: str, steps: int, phantoms: Path, out: Path) -> None:
    """Train one backbone in a process of one thread, unless it is trained already."""
    if (out / name / "model").is_dir():
        return
    line = command(name, steps, phantoms, out)
    print("dsdiff", *line[3:], flush=True)
    with (out / f"{name}.log").open("a", encoding="utf-8") as log:
        subprocess.run(line, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=log, check=True)


def synthesise(name: str, case: cases.Case, out: Path) -> None:
    """Synthesise the patient; keep the volume, its scores and the CPU seconds."""
    model = models.load(out / name / "model", torch.device("cpu"))
    volumes = cases.load(case, (*model.contrasts, "t1ce"))
    since = time.process_time()
    result = run({contrast: volumes[contrast] for contrast in model.contrasts}, model)
    seconds = time.process_time() - since
    labels = to_canonical(cases.load(case, ("seg",))["seg"]).array
    truth, t1 = (to_canonical(volumes[contrast]).array for contrast in ("t1ce", "t1"))
    whole = result.prepared.whole
    found = brain_scores.score(whole(result.z), truth, t1, regions(whole(result.prepared.brain), labels))
    log = [json.loads(line) for line in (out / name / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [row["validation"] for row in log if "validation" in row]
    size = sum(p.numel() for p in model.network.parameters() if p.requires_grad) / 1e6
    facts = {"parameters": size, "steps": log[-1]["step"], "curve": curve, "seconds": seconds}
    np.save(out / name / "z.npy", result.z)
    (out / name / "result.json").write_text(json.dumps(facts | found), encoding="utf-8")


def table(names: list[str], out: Path) -> str:
    """What each backbone did, as Markdown."""
    validation = "validation loss before | lowest | after"
    head = f"| backbone | parameters | steps | {validation} | CPU s a volume | PSNR fit | AUC tumour |"
    lines = [head, "|---" * 9 + "|"]
    for name in names:
        r = json.loads((out / name / "result.json").read_text(encoding="utf-8"))
        lines.append(
            f"| `{name}` | {r['parameters']:.2f} M | {r['steps']} | {r['curve'][0]:.4f} | {min(r['curve']):.4f} | "
            f"{r['curve'][-1]:.4f} | "
            f"{r['seconds']:.1f} | {r['psnr_fit']:.2f} | {r['auc_tumour']:.2f} |"
        )
    return "\n".join(lines)


def picture(names: list[str], case: cases.Case, out: Path) -> None:
    """The slice with most enhancing tumour: T1, the acquired T1ce and every backbone's, enhancement below each."""
    prepared = normalize.apply(cases.load(case, ("t1", "t2", "flair", "t1ce")))
    labels = to_canonical(cases.load(case, ("seg",))["seg"]).array[prepared.box]
    point = (0, 0, int((labels == enhancing_label(labels)).sum((0, 1)).argmax()))
    t1, brain = prepared.images["t1"], prepared.brain
    images = {"T1": t1, "acquired T1ce": prepared.images["t1ce"]}
    images |= {name: np.load(out / name / "z.npy") for name in names}
    figure = Figure(figsize=(1.45 * len(images), 3.6), facecolor=preview.BACKGROUND, dpi=110)
    axes = figure.subplots(2, len(images), squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.93, 0.02, 0.02)
    for column, (name, image) in zip(axes.T, images.items(), strict=True):
        low, high = slice_views.window(image, brain)
        grey = slice_views.plane(np.where(brain, np.clip((image - low) / (high - low), 0, 1), 0), point, "axial")
        made = slice_views.plane(np.where(brain, image - t1, 0), point, "axial")
        least, most = slice_views.ENHANCEMENT_RANGE
        for axis in column:
            axis.imshow(grey, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        shown = np.ma.masked_less(made, least)
        column[1].imshow(shown, cmap=slice_views.ENHANCEMENT_COLOURS, vmin=least, vmax=most, alpha=0.85)
        column[0].set_title(name, color=preview.INK, fontsize=7, pad=3)
    preview.save(figure, out / "backbones.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantoms", type=Path)
    parser.add_argument("case", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0, help="CPU minutes of training for each")
    parser.add_argument("--only", nargs="*", help="these backbones only")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, a thread each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "split.json").exists():
        splits.write(
            splits.make([case.name for case in cases.discover(args.phantoms)], 3, 2024), args.out / "split.json"
        )
    plan_file = args.out / "plan.json"
    plan = json.loads(plan_file.read_text(encoding="utf-8")) if plan_file.exists() else {}
    for path in sorted(BACKBONES.glob("*-small.yaml")):
        name = path.stem.removesuffix("-small")
        if name not in plan and (not args.only or name in args.only):
            try:
                config = configs.load(RECIPE, (f"backbone={path}",))
                plan[name] = int(args.minutes * 60 / throughput.seconds_per_step(config, "cpu"))
            except ConfigError as error:
                print(f"{name} left out: {error}", flush=True)
    plan_file.write_text(json.dumps(plan), encoding="utf-8")
    names = [name for name in plan if not args.only or name in args.only]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda name: train(name, plan[name], args.phantoms, args.out), names))
    (case,) = cases.discover(args.case)
    for name in names:
        if not (args.out / name / "result.json").exists():
            synthesise(name, case, args.out)
    done = [name for name in plan if (args.out / name / "result.json").exists()]
    picture(done, case, args.out)
    print(f"\n{table(done, args.out)}\n\n{args.out / 'backbones.png'}")


if __name__ == "__main__":
    main()
