"""Average the weights of models: python scripts/experiments/average.py MODEL MODEL ... -o OUT

The models have one network. OUT is a model folder with config, metadata and card of the last one. The average has less
error than each model if the trainings continue from one another (Izmailov et al. 2018, arXiv:1803.05407); other models
have to be tried.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from dsdiff.errors import DsdiffError
from dsdiff.model import checkpoint


def average_models(folders: list[Path], out: Path) -> None:
    """Write the average of several models.

    Args:
        folders: Model folders of one network.
        out: Model folder to write.

    Raises:
        ModelError: A model is damaged.
        OutputError: The folder cannot be written.
        SystemExit: The networks differ.
    """
    models = [checkpoint.read_model(folder) for folder in folders]
    last_model, last_folder = models[-1], folders[-1]
    for folder, model in zip(folders, models, strict=True):
        if shapes_of(model.weights) != shapes_of(last_model.weights):
            sys.exit(f"{folder} and {last_folder} have different networks: their weights have no average")

    average = {}
    for name, tensor in last_model.weights.items():
        if tensor.is_floating_point():
            average[name] = torch.stack([model.weights[name] for model in models]).mean(0)
        else:
            average[name] = tensor

    card = (last_folder / checkpoint.CARD_FILE).read_text(encoding="utf-8")
    checkpoint.save_model(out, average, last_model.config, card, last_model.metadata)


def shapes_of(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Look up the shapes of weights.

    Args:
        weights: By name.

    Returns:
        Shapes by name.
    """
    return {name: tensor.shape for name, tensor in weights.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="model folders of one network")
    parser.add_argument("-o", "--out", type=Path, required=True, help="model folder to write")
    args = parser.parse_args()
    try:
        average_models(args.models, args.out)
    except DsdiffError as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: the mean of {len(args.models)} models")


if __name__ == "__main__":
    main()
