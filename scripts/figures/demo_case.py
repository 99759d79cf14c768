"""Simulate the phantom that comes with the package: python scripts/figures/demo_case.py [SEED]

No model was trained on this phantom: training uses only seeds below 1000. Its intensities are rounded to steps of the
noise, so that all files together stay below 4 MB.
"""

import argparse
import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsdiff.phantom import files, simulate

ASSETS = Path("src/dsdiff/assets/phantom")
GRAY_LEVELS = 40  # from the background to the brain's 99.9th percentile
NOISE = 0.4  # relative to the noise of a usual scan


def round_intensities(array: np.ndarray) -> np.ndarray:
    """Round to multiples of one step; brain stays above the background."""
    step = max(1, round(float(np.percentile(array[array > 0], 99.9)) / GRAY_LEVELS))
    return np.where(array > 0, np.maximum(np.round(array / step), 1) * step, 0).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int, nargs="?", default=1011)
    parser.add_argument("--out", type=Path, default=ASSETS)
    args = parser.parse_args()

    phantom = simulate.simulate_phantom(args.seed, noise=NOISE)
    volumes = {name: volume.with_array(round_intensities(volume.array)) for name, volume in phantom.volumes.items()}
    shutil.rmtree(args.out / phantom.case, ignore_errors=True)
    folder = files.write_phantom(replace(phantom, volumes=volumes), args.out)

    for path in folder.glob("*.gz"):
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9, mtime=0))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
