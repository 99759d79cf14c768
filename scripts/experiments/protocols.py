"""The same volumes by every protocol: python benchmarks/protocols.py PRED TRUTH [--every N]

PRED holds synthetic T1ce as `dsdiff synth` writes them, TRUTH the acquired cases. Prints, as Markdown, the mean over
patients of PSNR, NRMSE, SSIM and MS-SSIM over the widest region of each protocol, as it is and with --fit, and SSIM in
and outside the tumour. Nothing differs from row to row but the protocol; docs/metrics.md shows what it prints.
"""

import argparse
from pathlib import Path

import numpy as np

from dsdiff.evaluation import pairing, patient_scores, protocols

METRICS = ("psnr", "nrmse", "ssim", "ms_ssim")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prediction", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every Nth patient by name")
    args = parser.parse_args()
    rows: dict[tuple[str, bool], list[dict[str, float]]] = {}
    for made, case in pairing.find(args.prediction, args.truth, None, None).found[:: args.every]:
        one = patient_scores.read(made, case)
        for name in protocols.PROTOCOLS:
            for fit in (False, True):
                found = protocols.likeness(one.image, one.truth, one.regions, name, fit)
                rows.setdefault((name, fit), []).append(found)
    n = len(next(iter(rows.values())))
    print(f"| protocol, {n} patients | PSNR, dB | NRMSE | SSIM | MS-SSIM | SSIM tumour | SSIM rest |")
    print("|---" * 7 + "|")
    for (name, fit), scores in rows.items():
        widest = protocols.PROTOCOLS[name].widest
        columns = [*(f"{metric}_{widest}" for metric in METRICS), "ssim_tumour", "ssim_rest"]
        values = [
            np.nanmean([found[column] for found in scores]) if column in scores[0] else None for column in columns
        ]
        digits = (1, 3, 3, 3, 3, 3)
        cells = [f"{v:.{d}f}" if v is not None else "-" for v, d in zip(values, digits, strict=True)]
        print(f"| `{name}`{' --fit' if fit else ''} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
