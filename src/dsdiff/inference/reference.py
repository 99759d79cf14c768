"""The style of a T1ce, read from another patient of the same scanner."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsdiff.data import cases, preprocess, style
from dsdiff.data.labels import TUMOUR
from dsdiff.data.style import Code
from dsdiff.errors import CaseError, ConfigError
from dsdiff.inference.model import Model


@dataclass(frozen=True)
class Reference:
    """A style with the name of the case that it was read from. `code`: see `data.style`."""

    name: str
    code: Code

    @property
    def says(self) -> str:
        """The name and eight hex digits of the code, by which another style of that name is told from it."""
        return f"{self.name} ({hashlib.sha256(self.code.tobytes()).hexdigest()[:8]})"


def read(folder: Path, model: Model) -> Reference:
    """The style of the one case in a folder, which needs the model's contrasts and a T1ce on one grid.

    Its contrasts are needed too: they say which tissue is which, so that the T1ce need not lie where the patient does.
    Raises `ConfigError` where the model was not told styles or there are several cases, and what reading raises.
    """
    if model.config.conditioning.style == "none":
        raise ConfigError(f"model {model.name} was trained without conditioning.style: it has one style")
    found = cases.discover(folder)
    if len(found) != 1:
        raise ConfigError(f"{folder} holds {len(found)} cases; the reference of a style is one")
    (case,), data = found, model.config.data
    with_labels = (*model.contrasts, data.target, *(("seg",) if "seg" in case.named else ()))
    try:
        volumes = cases.load(case, with_labels)
    except CaseError as error:
        raise ConfigError(f"the reference of a style, {folder}: {error}") from error
    seg = volumes.pop("seg", None)
    prepared = preprocess.apply(volumes, data.start)
    healthy = prepared.brain
    if seg is not None:
        healthy = healthy & ~np.isin(preprocess.to_canonical(seg).array[prepared.box], TUMOUR)
    sources = [prepared.images[contrast] for contrast in model.contrasts]
    kind = model.config.conditioning.style
    return Reference(case.name, style.own_style(sources, prepared.images[data.target], healthy, kind).weights)
