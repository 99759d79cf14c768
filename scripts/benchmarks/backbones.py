"""Train every small backbone for the same CPU time on phantoms, and synthesize one real patient with each.

python scripts/benchmarks/backbones.py PHANTOMS CASE OUT [--minutes 3] [--only NAME ...]

All configs/backbones/NAME-small.yaml are trained by the same command, which is printed. Only `backbone=` and the number
of steps, which depends on the CPU time, differ. PHANTOMS come from `dsdiff phantom PHANTOMS -n 18 --seed 101`; a third
of them is held out for validation. CASE is the folder of a patient with T1ce. Everything is written to OUT, and the
same command resumes the work. Ends with a Markdown table and a picture.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from benchmark_files import create_parser

from dsdiff.comparison import throughput
from dsdiff.config.run import load_config
from dsdiff.errors import ConfigError
from dsdiff.evaluation import brain_scores
from dsdiff.evaluation.regions import make_regions
from dsdiff.inference.model import load_model
from dsdiff.inference.pipeline import Pipeline
from dsdiff.io import splits
from dsdiff.io.cases import Case, discover_cases, load_volumes
from dsdiff.io.segmentation import enhancing_label
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import normalize
from dsdiff.reporting import figures, slice_views

RECIPE = Path("configs/bridge-small.yaml")
BACKBONES = Path("configs/backbones")
PROGRAM = "from dsdiff.cli.main import run; run()"


def training_arguments(name: str, steps: int, phantoms: Path, out: Path) -> list[str]:
    """Build the arguments of dsdiff for the training of one backbone.

    Args:
        name: Name of the backbone.
        steps: Training steps.
        phantoms: Folder of the training cases.
        out: Folder of all runs.

    Returns:
        The arguments.
    """
    overrides = [
        f"backbone={BACKBONES / f'{name}-small.yaml'}",
        f"data.root={phantoms}",
        f"data.split={out / 'split.json'}",
        "data.fold=0",
        "data.phantom_fraction=0",
        "data.target_style=own",
        f"training.steps={steps}",
        "training.warmup=30",
        f"training.validate_every={max(1, steps // 4)}",
    ]
    return ["train", str(RECIPE), *overrides, "-o", str(out / name)]


def train_backbone(name: str, steps: int, phantoms: Path, out: Path) -> None:
    """Train one backbone in a process with one thread, unless it is trained already.

    Args:
        name: Name of the backbone.
        steps: Training steps.
        phantoms: Folder of the training cases.
        out: Folder of all runs.
    """
    if (out / name / "model").is_dir():
        return
    arguments = training_arguments(name, steps, phantoms, out)
    print("dsdiff", *arguments, flush=True)
    command = [sys.executable, "-c", PROGRAM, *arguments]
    with (out / f"{name}.log").open("a", encoding="utf-8") as log:
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=log, check=True)


def synthesize_case(name: str, case: Case, out: Path) -> None:
    """Synthesize the patient with one backbone; write the volume, its scores and the CPU time.

    Args:
        name: Name of the backbone.
        case: A case with T1ce and segmentation.
        out: Folder of all runs.
    """
    run = out / name
    model = load_model(run / "model", torch.device("cpu"))
    volumes = load_volumes(case, (*model.contrasts, "t1ce"))
    pipeline = Pipeline(model)
    start = time.process_time()
    result = pipeline.synthesize_volumes({contrast: volumes[contrast] for contrast in model.contrasts})
    seconds = time.process_time() - start

    labels = to_canonical(load_volumes(case, ("seg",))["seg"]).array
    truth, t1 = (to_canonical(volumes[contrast]).array for contrast in ("t1ce", "t1"))
    uncrop = result.geometry.uncrop
    regions = make_regions(uncrop(result.case.brain), labels)
    scores = brain_scores.score_brain(uncrop(result.z), truth, t1, regions)

    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    content = {
        "parameters_millions": sum(p.numel() for p in model.network.parameters() if p.requires_grad) / 1e6,
        "steps": log[-1]["step"],
        "validation_losses": [row["validation"] for row in log if "validation" in row],
        "seconds": seconds,
    }
    np.save(run / "z.npy", result.z)
    (run / "result.json").write_text(json.dumps(content | scores), encoding="utf-8")


def render_table(names: list[str], out: Path) -> str:
    """Render the results as Markdown.

    Args:
        names: Names of the backbones.
        out: Folder of all runs.

    Returns:
        The table.
    """
    titles = ["backbone", "parameters", "steps", "validation loss before", "lowest", "after"]
    titles += ["CPU s per volume", "PSNR fit", "AUC tumour"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in names:
        result = json.loads((out / name / "result.json").read_text(encoding="utf-8"))
        losses = result["validation_losses"]
        lines.append(
            f"| `{name}` | {result['parameters_millions']:.2f} M | {result['steps']} | {losses[0]:.4f} | "
            f"{min(losses):.4f} | {losses[-1]:.4f} | {result['seconds']:.1f} | {result['psnr_fit']:.2f} | "
            f"{result['auc_tumour']:.2f} |"
        )
    return "\n".join(lines)


def plot_slices(names: list[str], case: Case, out: Path) -> None:
    """Plot the slice with most enhancing tumour: T1, the acquired T1ce and each synthetic T1ce, with enhancement below.

    Args:
        names: Names of the backbones.
        case: The case.
        out: Folder of all runs; gets backbones.png.
    """
    loaded = normalize.preprocess(load_volumes(case, ("t1", "t2", "flair", "t1ce")))
    t1, brain = loaded.case.images["t1"], loaded.case.brain
    labels = to_canonical(load_volumes(case, ("seg",))["seg"]).array[loaded.geometry.box]
    point = (0, 0, int((labels == enhancing_label(labels)).sum((0, 1)).argmax()))
    images = {"T1": t1, "acquired T1ce": loaded.case.images["t1ce"]}
    images |= {name: np.load(out / name / "z.npy") for name in names}

    figure = figures.new_figure(1.45 * len(images), 3.6)
    axes = figure.subplots(2, len(images), squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.93, 0.02, 0.02)
    low_enhancement, high_enhancement = slice_views.ENHANCEMENT_RANGE
    for (image_axis, enhancement_axis), (name, image) in zip(axes.T, images.items(), strict=True):
        low, high = slice_views.gray_window(image, brain)
        gray_volume = np.where(brain, np.clip((image - low) / (high - low), 0, 1), 0)
        gray = slice_views.slice_view(gray_volume, point, "axial")
        for axis in (image_axis, enhancement_axis):
            axis.imshow(gray, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()

        enhancement = slice_views.slice_view(np.where(brain, image - t1, 0), point, "axial")
        enhancement_axis.imshow(
            np.ma.masked_less(enhancement, low_enhancement),
            cmap=slice_views.ENHANCEMENT_COLORMAP,
            vmin=low_enhancement,
            vmax=high_enhancement,
            alpha=0.85,
        )
        image_axis.set_title(name, color=figures.INK, fontsize=7, pad=3)
    figures.save_png(figure, out / "backbones.png")


def plan_steps(minutes: float, only: list[str] | None, plan_file: Path) -> dict[str, int]:
    """Compute the training steps of each backbone that fit into the CPU time.

    Args:
        minutes: CPU minutes of one training.
        only: Names of backbones; None takes all.
        plan_file: JSON file that keeps the steps, so that a resumed run has the same.

    Returns:
        Backbone -> steps.
    """
    steps_by_name = json.loads(plan_file.read_text(encoding="utf-8")) if plan_file.exists() else {}
    for path in sorted(BACKBONES.glob("*-small.yaml")):
        name = path.stem.removesuffix("-small")
        if name in steps_by_name or (only and name not in only):
            continue
        try:
            config = load_config(RECIPE, (f"backbone={path}",))
            steps_by_name[name] = int(minutes * 60 / throughput.measure_seconds_per_step(config, "cpu"))
        except ConfigError as error:
            print(f"{name} is skipped: {error}", flush=True)
    plan_file.write_text(json.dumps(steps_by_name), encoding="utf-8")
    return steps_by_name


def main() -> None:
    """Run the benchmark."""
    parser = create_parser(__doc__)
    parser.add_argument("phantoms", type=Path, help="folder of phantoms to train on")
    parser.add_argument("case", type=Path, help="folder of a patient with T1ce and segmentation")
    parser.add_argument("out", type=Path, help="folder of all runs")
    parser.add_argument("--minutes", type=float, default=3.0, help="CPU minutes of each training")
    parser.add_argument("--only", nargs="*", help="names of backbones; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, with one thread each")
    args = parser.parse_args()

    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    split_file = args.out / "split.json"
    if not split_file.exists():
        case_names = [case.name for case in discover_cases(args.phantoms)]
        splits.write(splits.make(case_names, 3, 2024), split_file)
    steps_by_name = plan_steps(args.minutes, args.only, args.out / "plan.json")
    names = [name for name in steps_by_name if not args.only or name in args.only]

    with ThreadPoolExecutor(args.jobs) as executor:
        for future in [executor.submit(train_backbone, n, steps_by_name[n], args.phantoms, args.out) for n in names]:
            future.result()

    (case,) = discover_cases(args.case)
    for name in names:
        if not (args.out / name / "result.json").exists():
            synthesize_case(name, case, args.out)
    finished = [name for name in steps_by_name if (args.out / name / "result.json").exists()]
    plot_slices(finished, case, args.out)
    print(f"\n{render_table(finished, args.out)}\n\n{args.out / 'backbones.png'}")


if __name__ == "__main__":
    main()
