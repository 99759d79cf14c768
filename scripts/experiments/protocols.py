"""Score the same volumes by every protocol: python scripts/experiments/protocols.py PRED TRUTH [--every N]

PRED is a folder of synthetic T1ce as `dsdiff synth` writes them, TRUTH a folder of acquired cases. Prints a Markdown
table of means over patients: PSNR, NRMSE, SSIM and MS-SSIM over the widest region of each protocol, with and without
--fit, and SSIM in and outside the tumour. The rows differ only in the protocol; docs/metrics.md shows the table.
"""

import argparse
from pathlib import Path

import numpy as np

from dsdiff.evaluation import pairing, patient_scores, protocols

METRICS = ("psnr", "nrmse", "ssim", "ms_ssim")
DIGITS = (1, 3, 3, 3, 3, 3)
TITLES = ("PSNR, dB", "NRMSE", "SSIM", "MS-SSIM", "SSIM tumour", "SSIM outside the tumour")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prediction", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--every", type=int, default=1, help="score only every Nth patient by name")
    args = parser.parse_args()

    scores_by_row: dict[tuple[str, bool], list[dict[str, float]]] = {}
    pairs = pairing.pair_cases(args.prediction, args.truth, None, None).pairs[:: args.every]
    for synthetic, case in pairs:
        patient = patient_scores.read_patient(synthetic, case)
        for name in protocols.PROTOCOLS:
            for fit in (False, True):
                scores = protocols.score_similarity(patient.image, patient.truth, patient.regions, name, fit)
                scores_by_row.setdefault((name, fit), []).append(scores)

    print(f"| protocol, {len(pairs)} patients | {' | '.join(TITLES)} |")
    print("|---" * (len(TITLES) + 1) + "|")
    for (name, fit), patients in scores_by_row.items():
        print(f"| `{name}`{' --fit' if fit else ''} | {' | '.join(format_row(name, patients))} |")


def format_row(protocol: str, patients: list[dict[str, float]]) -> list[str]:
    """Return the means of one row; a dash for a score that the protocol does not have."""
    widest = protocols.PROTOCOLS[protocol].widest_region
    columns = [*(f"{metric}_{widest}" for metric in METRICS), "ssim_tumour", "ssim_rest"]
    cells = []
    for column, digits in zip(columns, DIGITS, strict=True):
        if column not in patients[0]:
            cells.append("-")
            continue
        mean = np.nanmean([scores[column] for scores in patients])
        cells.append(f"{mean:.{digits}f}")
    return cells


if __name__ == "__main__":
    main()
