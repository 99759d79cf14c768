"""Average the weights of models of one network: python benchmarks/average.py MODEL MODEL ... -o OUT

OUT is a model folder with the config, facts and card of the last of them. Averages of one training's later weights err
less than each where the trainings go on from one another (Izmailov et al. 2018, arXiv:1803.05407); others have to be
tried.
"""

import argparse
import sys
from pathlib import Path

import torch

from dsdiff.errors import DsdiffError
from dsdiff.model import checkpoint


def average(folders: list[Path], out: Path) -> None:
    """Write the average. Raises what reading and writing raise; exits where the networks are different ones."""
    held = [checkpoint.read(folder) for folder in folders]
    last, shapes = held[-1], [{name: value.shape for name, value in one.weights.items()} for one in held]
    for folder, others in zip(folders, shapes, strict=True):
        if others != shapes[-1]:
            sys.exit(f"{folder} is another network than {folders[-1]}: their weights have no average")
    mean = {
        name: torch.stack([one.weights[name] for one in held]).mean(0) if value.is_floating_point() else value
        for name, value in last.weights.items()
    }
    checkpoint.save(out, mean, last.config, (folders[-1] / checkpoint.CARD).read_text(encoding="utf-8"), last.facts)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="model folders of one network")
    parser.add_argument("-o", "--out", type=Path, required=True, help="model folder to write")
    given = parser.parse_args()
    try:
        average(given.models, given.out)
    except DsdiffError as error:
        sys.exit(f"error: {error}")
    print(f"{given.out}: the mean of {len(given.models)}")


if __name__ == "__main__":
    main()
