"""What becomes of the config files of another program: a table for docs/weights.md.

    python scripts/experiments/import_original.py FOLDER

FOLDER holds the files of one or more programs, at any depth. Every YAML file is imported as by dsdiff import-config. A
row gives the network with its number of parameters, the process, the losses and the number of notes, or the first
reason of the refusal.
"""

import argparse
import re
from pathlib import Path

from dsdiff.config.import_config import import_config
from dsdiff.config.run import RunConfig
from dsdiff.errors import DsdiffError

NEXT_REASON = re.compile(r"; (?=[\w.]+ \()")  # a key with its value in parentheses
HEADER = "| file | imported as | process | loss | notes |\n|---|---|---|---|---|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with YAML files, at any depth")
    folder = parser.parse_args().folder

    print(HEADER)
    for path in sorted(path for pattern in ("*.yaml", "*.yml") for path in folder.rglob(pattern)):
        print(describe_import(path, str(path.relative_to(folder))))


def describe_import(path: Path, name: str) -> str:
    """Import a file and describe the result.

    Args:
        path: The file.
        name: Its name in the table.

    Returns:
        A row of the table.
    """
    try:
        imported = import_config(path)
    except DsdiffError as error:
        reasons = str(error).removeprefix(f"{path} ").removeprefix("cannot be imported: ").replace("|", "\\|")
        first_reason, *other_reasons = NEXT_REASON.split(reasons)
        more = f" (and {len(other_reasons)} more)" if other_reasons else ""
        return f"| `{name}` | refused: {first_reason}{more} | | | |"

    config = imported.config
    n_parameters = sum(parameter.numel() for parameter in config.meta_network().parameters()) / 1e6
    network = f"`{config.backbone.target}`, {n_parameters:.1f} M"
    return (
        f"| `{name}` | {network} | {_describe_process(config)} | {_describe_losses(config)} | {len(imported.notes)} |"
    )


def _describe_process(config: RunConfig) -> str:
    params = config.process.params
    sampler = config.sampler.target if config.sampler else "default sampler"
    return f"{params['schedule']}, T {params['timesteps']}, {params['prediction']}; {sampler}"


def _describe_losses(config: RunConfig) -> str:
    terms = [*config.loss, *config.conditioning.disentangle]
    return " + ".join(term.target if term.weight == 1 else f"{term.weight:g} {term.target}" for term in terms)


if __name__ == "__main__":
    main()
