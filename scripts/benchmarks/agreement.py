"""Compare the fast engine with the reference engine (float32, as trained) on real patients.

python scripts/benchmarks/agreement.py DATA [--cases 6] [--model default] [--engine fast] [--out FILE.json]

DATA is a folder of patients with T1ce, of which evenly spaced ones are taken. Prints PSNR between both engines in the
brain, with the 0.5 and 99.5 percentiles of the reference as data range. The table has the scores of `dsdiff evaluate`:
their means for both engines, the difference of the means, and the largest difference of one patient.
"""

import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_files import RESULTS, create_parser, write_results

from dsdiff.evaluation import brain_scores
from dsdiff.evaluation.regions import make_regions
from dsdiff.inference.model import Model, load_model
from dsdiff.inference.pipeline import Pipeline, SynthesisResult
from dsdiff.io.cases import Case, discover_cases, load_volumes
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import normalize
from dsdiff.volume import Volume


def score_result(result: SynthesisResult, case: Case, volumes: dict[str, Volume]) -> dict[str, float]:
    """Score a result against the acquired T1ce.

    Args:
        result: The synthesis.
        case: The case, with or without a segmentation.
        volumes: Its volumes, T1 and T1ce among them.

    Returns:
        Score -> value.
    """
    labels = None
    if "seg" in case.contrasts:
        labels = to_canonical(load_volumes(case, ("seg",))["seg"]).array
    truth, t1 = (to_canonical(volumes[contrast]).array for contrast in ("t1ce", "t1"))
    uncrop = result.geometry.uncrop
    return brain_scores.score_brain(uncrop(result.z), truth, t1, make_regions(uncrop(result.case.brain), labels))


def compare_engines(case: Case, reference_model: Model, engine_model: Model) -> dict[str, Any]:
    """Synthesize and score a case with both engines.

    Args:
        case: The case.
        reference_model: The model with the reference engine.
        engine_model: The same model with the other engine.

    Returns:
        PSNR, largest difference, and the scores of both.
    """
    volumes = load_volumes(case, (*reference_model.contrasts, "t1ce"))
    loaded = normalize.preprocess({contrast: volumes[contrast] for contrast in reference_model.contrasts})
    reference = Pipeline(reference_model).synthesize_loaded(loaded)
    result = Pipeline(engine_model).synthesize_loaded(loaded)

    reference_voxels, voxels = reference.z[loaded.case.brain], result.z[loaded.case.brain]
    low, high = np.percentile(reference_voxels, (0.5, 99.5))
    psnr = 10 * np.log10((high - low) ** 2 / np.square(reference_voxels - voxels).mean())
    return {
        "case": case.name,
        "psnr": float(psnr),
        "max_difference": float(np.abs(reference_voxels - voxels).max()),
        "reference_scores": score_result(reference, case, volumes),
        "engine_scores": score_result(result, case, volumes),
    }


def render_table(patients: list[dict[str, Any]]) -> str:
    """Render the differences as Markdown.

    Args:
        patients: Output of `compare_engines` for each patient.

    Returns:
        A sentence and a table.
    """
    psnr = [patient["psnr"] for patient in patients]
    max_difference = max(patient["max_difference"] for patient in patients)
    lines = [
        f"PSNR between the engines: {min(psnr):.1f} to {max(psnr):.1f} dB over {len(patients)} patients; no voxel "
        f"differs by more than {max_difference:.2f} robust SD.",
        "",
        "| score | reference, mean | engine, mean | difference of means | largest of one patient |",
        "|---|---|---|---|---|",
    ]
    for name in patients[0]["reference_scores"]:
        pairs = np.array([(p["reference_scores"][name], p["engine_scores"][name]) for p in patients], float)
        pairs = pairs[np.isfinite(pairs).all(1)]
        if len(pairs):
            reference_mean, engine_mean = pairs.mean(0)
            largest = np.abs(pairs[:, 0] - pairs[:, 1]).max()
            difference = engine_mean - reference_mean
            lines.append(f"| {name} | {reference_mean:.4f} | {engine_mean:.4f} | {difference:+.5f} | {largest:.5f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = create_parser(__doc__)
    parser.add_argument("data", type=Path, help="folder of patients with T1ce")
    parser.add_argument("--cases", type=int, default=6, help="number of patients")
    parser.add_argument("--model", default="default", help="name or folder of a model")
    parser.add_argument("--engine", default="fast", help="engine to compare with eager")
    parser.add_argument("--out", type=Path, default=RESULTS / "agreement.json", help="JSON file of the results")
    args = parser.parse_args()

    cpu = torch.device("cpu")
    reference_model = load_model(args.model, cpu, "eager")
    engine_model = load_model(args.model, cpu, args.engine)
    cases = [case for case in discover_cases(args.data) if "t1ce" in case.files]
    patients = []
    for number in np.linspace(0, len(cases) - 1, args.cases).astype(int):
        patients.append(compare_engines(cases[number], reference_model, engine_model))
        print(f"{patients[-1]['case']}: {patients[-1]['psnr']:.1f} dB", file=sys.stderr)

    label = engine_model.engine.label
    metadata = {"engine": label, "model": engine_model.hash, "date": str(date.today())}
    write_results(metadata | {"patients": patients}, args.out)
    print(label, render_table(patients), sep="\n\n")


if __name__ == "__main__":
    main()
