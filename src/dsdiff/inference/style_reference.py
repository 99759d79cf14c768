"""The style (tissue contrast) of a T1ce, read from another patient of the same scanner."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dsdiff.data import preparation
from dsdiff.errors import CaseError, ConfigError
from dsdiff.inference.model import Model
from dsdiff.io.cases import discover_single_case
from dsdiff.style.regression import StyleCode


@dataclass(frozen=True)
class StyleReference:
    """A style that the user chose.

    Attributes:
        name: The case that it was read from.
        code: The style, see `style.regression`.
    """

    name: str
    code: StyleCode

    @property
    def label(self) -> str:
        """Name the style so that two cases of one name differ.

        Returns:
            The name of the case and eight hex digits of the code's SHA-256.
        """
        return f"{self.name} ({hashlib.sha256(self.code.weights.tobytes()).hexdigest()[:8]})"


def read_style(folder: Path, model: Model) -> StyleReference:
    """Read the style of a patient.

    Its source contrasts are needed too. They tell the tissues apart, so the T1ce may be that of another patient.

    Args:
        folder: Holds exactly one case with the model's contrasts and a T1ce, all on one grid.
        model: Decides the contrasts and the kind of style.

    Returns:
        The style and the name of the case.

    Raises:
        ConfigError: If the model has no style conditioning, or the case lacks a contrast.
        InputError: If the folder does not hold exactly one case, or a file of the case cannot be read.
    """
    if model.config.conditioning.style == "none":
        raise ConfigError(
            f"model {model.name} was trained without style conditioning (conditioning.style is none), so --style has "
            "no effect on it; leave it out or take another model"
        )

    case, data = discover_single_case(folder, "a style reference"), model.config.data
    try:
        patient = preparation.load_patient(case, model.contrasts, data.target, data.source_contrast)
    except CaseError as error:
        raise ConfigError(f"style reference {folder}: {error}") from error
    return StyleReference(case.name, patient.slices.fit_style(model.config.conditioning.style).style_code)
