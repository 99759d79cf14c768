"""Make the phantom that comes with the package: python benchmarks/demo_case.py [SEED]

A phantom that no model was trained on (seeds of 1000 and more are kept for that), its intensities rounded to steps of
the noise so that the whole case stays under 4 MB.
"""

import argparse
import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from dsdiff.phantom import files, simulate

PLACE = Path("src/dsdiff/assets/phantom")
LEVELS = 40  # grey levels from the background to the brain's 99.9th percentile
NOISE = 0.4  # of what a scan usually has


def rounded(array: np.ndarray) -> np.ndarray:
    """The array in whole multiples of one step; brain stays above the background."""
    step = max(1, round(float(np.percentile(array[array > 0], 99.9)) / LEVELS))
    return np.where(array > 0, np.maximum(np.round(array / step), 1) * step, 0).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int, nargs="?", default=1011)
    parser.add_argument("--out", type=Path, default=PLACE)
    args = parser.parse_args()
    made = simulate.simulate(args.seed, noise=NOISE)
    volumes = {name: volume.with_array(rounded(volume.array)) for name, volume in made.volumes.items()}
    shutil.rmtree(args.out / made.case, ignore_errors=True)
    folder = files.write(replace(made, volumes=volumes), args.out)
    for path in folder.glob("*.gz"):
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9, mtime=0))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
