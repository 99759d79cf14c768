"""The style of a T1ce, read from another patient of the same scanner."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dsdiff.data import dataset
from dsdiff.errors import CaseError, ConfigError
from dsdiff.inference.model import Model
from dsdiff.io import cases
from dsdiff.style.regression import Code


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
    case, data = cases.only(folder, "the reference of a style"), model.config.data
    try:
        patient = dataset.load(case, model.contrasts, data.target, data.source_contrast)
    except CaseError as error:
        raise ConfigError(f"the reference of a style, {folder}: {error}") from error
    return Reference(case.name, patient.slices.style(model.config.conditioning.style).weights)
