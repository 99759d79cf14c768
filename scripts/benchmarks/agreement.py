"""The fast engine against the reference (float32, as trained) on real patients: PSNR between them, and every score.

python benchmarks/agreement.py DATA [--cases 6] [--model default] [--engine fast] [--out FILE.json]

DATA is a folder of patients with T1ce; evenly spaced ones are taken. PSNR in the brain, peak: 0.5 to 99.5 percentiles
of the reference's answer. Scores are those of `dsdiff evaluate`; the table says by how much the engine moves each of
their means, and by how much that of the patient whom it moves most.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import numpy as np
import torch

from dsdiff.evaluation import brain_scores
from dsdiff.evaluation.regions import regions
from dsdiff.inference import model as models
from dsdiff.inference.pipeline import Result, complete
from dsdiff.io import cases
from dsdiff.preprocessing import normalize
from dsdiff.volume import to_canonical


def score(result: Result, case: cases.Case, volumes: dict) -> dict[str, float]:
    """The scores of a result against the patient's own T1ce."""
    labels = to_canonical(cases.load(case, ("seg",))["seg"]).array if "seg" in case.named else None
    truth, t1 = (to_canonical(volumes[contrast]).array for contrast in ("t1ce", "t1"))
    whole = result.prepared.whole
    return brain_scores.score(whole(result.z), truth, t1, regions(whole(result.prepared.brain), labels))


def agreement(case: cases.Case, reference: models.Model, other: models.Model) -> dict:
    """PSNR between two engines' answers, and the scores of both."""
    volumes = cases.load(case, (*reference.contrasts, "t1ce"))
    prepared = normalize.apply({contrast: volumes[contrast] for contrast in reference.contrasts})
    exact, made = complete(prepared, reference), complete(prepared, other)
    one, two = exact.z[prepared.brain], made.z[prepared.brain]
    low, high = np.percentile(one, (0.5, 99.5))
    psnr = 10 * np.log10((high - low) ** 2 / np.square(one - two).mean())
    return {
        "case": case.name, "psnr": float(psnr), "largest": float(np.abs(one - two).max()),
        "reference": score(exact, case, volumes), "engine": score(made, case, volumes),
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """Markdown: what differs."""
    psnr = [row["psnr"] for row in rows]
    lines = [
        f"PSNR between the two: {min(psnr):.1f} to {max(psnr):.1f} dB over {len(rows)} patients; no voxel differs by "
        f"more than {max(row['largest'] for row in rows):.2f} robust SD.",
        "",
        "| score | reference, mean | engine, mean | difference of means | largest of one patient |",
        "|---|---|---|---|---|",
    ]
    for name in rows[0]["reference"]:
        pairs = np.array([(row["reference"][name], row["engine"][name]) for row in rows], float)
        pairs = pairs[np.isfinite(pairs).all(1)]
        if len(pairs):
            one, two = pairs.mean(0)
            apart = np.abs(pairs[:, 0] - pairs[:, 1]).max()
            lines.append(f"| {name} | {one:.4f} | {two:.4f} | {two - one:+.5f} | {apart:.5f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--model", default="default")
    parser.add_argument("--engine", default="fast")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/agreement.json"))
    args = parser.parse_args()
    cpu = torch.device("cpu")
    reference, other = (models.load(args.model, cpu, engine) for engine in ("eager", args.engine))
    found = [case for case in cases.discover(args.data) if "t1ce" in case.files]
    rows = []
    for number in np.linspace(0, len(found) - 1, args.cases).astype(int):
        rows.append(agreement(found[number], reference, other))
        print(f"{rows[-1]['case']}: {rows[-1]['psnr']:.1f} dB", file=sys.stderr)
    facts = {"engine": other.engine.says, "model": other.hash, "date": str(date.today())}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(other.engine.says, table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
