"""Check that the folders and files that a config names exist, before anything is trained."""

from collections.abc import Sequence

from dsdiff.config.run import RunConfig
from dsdiff.data import store
from dsdiff.data.settings import DataConfig
from dsdiff.errors import UserError
from dsdiff.inference.model import resolve_model_path
from dsdiff.io import splits
from dsdiff.model.checkpoint import CONFIG_FILE, WEIGHTS_FILE


def find_path_problems(config: RunConfig) -> list[str]:
    """Check the paths of a config. Names of cases are read, images are not.

    Args:
        config: The config of a run.

    Returns:
        For each path that cannot be used, its key and what is wrong; empty if training can begin.
    """
    data = config.data
    problems: list[str] = []
    cases: dict[str, list[str]] = {}
    for key, root in (("data.root", data.root), ("data.phantoms", data.phantoms)):
        try:
            if root is not None:
                cases[key] = store.list_case_names(root)
        except UserError as error:
            problems.append(f"{key}: {error}")

    try:
        problems += _check_split(data, cases.get("data.root"))
    except UserError as error:
        problems.append(f"data.split: {error}")
    try:
        problems += _check_init_model(config)
    except UserError as error:
        problems.append(f"training.init_from: {error}")
    return problems


def _check_split(data: DataConfig, cases: Sequence[str] | None) -> list[str]:
    """Return what is wrong with split and fold; `cases` are None if they could not be read."""
    if data.split is None or data.fold is None:
        return []

    missing = sorted(set(splits.read(data.split).held_out(data.fold)) - set(cases or ()))
    if cases is None or not missing:
        return []
    return [f"data.split: {data.split} names cases that {data.root} does not hold: {', '.join(missing[:3])}"]


def _check_init_model(config: RunConfig) -> list[str]:
    """Return what is wrong with the model that the training starts from."""
    if config.training.init_from is None:
        return []

    folder = resolve_model_path(config.training.init_from)
    absent = [name for name in (WEIGHTS_FILE, CONFIG_FILE) if not (folder / name).is_file()]
    return [f"training.init_from: {folder} is not a model folder: it has no {absent[0]}"] if absent else []
