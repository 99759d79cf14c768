"""Which patients a training sees, and how their slices are cut: the `data` block of a config."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from dsdiff.data.augment import AugmentConfig
from dsdiff.preprocessing.planes import Plane
from dsdiff.schema import ConfigModel

TARGET = "t1ce"  # what is synthesised and scored


class DataConfig(ConfigModel):
    """Which patients, which contrasts, how slices are cut.

    root: a folder of cases; phantoms: a folder of simulated ones, drawn `phantom_fraction` of the time.
    split, fold: a split file, and the fold that is kept for validation and never trained on.
    planes: those that slices are cut along: training draws each slice in one of them, synthesis averages their answers.
    slab: neighbouring slices given with each. crop: height and width of training crops.
    lesion_fraction: of the training slices, how many are drawn where there is tumour.
    augment: see `data.augment`; true is its defaults, false nothing.
    target_style: "own" trains on the T1ce as it is, "average" on one whose tissue contrast is that of the average
    training patient (see `data.style`).
    contrast_dropout: of the training slices, how many lack a contrast (each but `start`, by itself); above 0 the model
    also takes cases without it. style_dropout: how many are told the style to be expected in place of the target's
    own, where conditioning tells one.
    """

    root: Path | None = None
    phantoms: Path | None = None
    phantom_fraction: float = Field(0.0, ge=0, le=1)
    split: Path | None = None
    fold: int | None = Field(None, ge=0)
    contrasts: tuple[str, ...] = Field(("t1", "t2", "flair"), min_length=1)
    source_contrast: str = "t1"
    target: str = TARGET
    planes: tuple[Plane, ...] = ("axial",)
    context_slices: Literal[1, 3, 5] = 3
    crop: tuple[PositiveInt, PositiveInt] = (128, 160)
    lesion_fraction: float = Field(0.5, ge=0, le=1)
    augment: AugmentConfig = AugmentConfig()
    target_style: Literal["own", "average"] = "own"
    contrast_dropout: float = Field(0.0, ge=0, lt=1)
    style_dropout: float = Field(0.5, ge=0, le=1)

    @field_validator("augment", mode="before")
    @classmethod
    def _augment_may_be_a_switch(cls, value: Any) -> Any:
        return (AugmentConfig() if value else AugmentConfig.off()) if isinstance(value, bool) else value

    @property
    def optional(self) -> tuple[str, ...]:
        """The contrasts that a case may lack: those that training left out now and then."""
        return tuple(name for name in self.contrasts if name != self.source_contrast and self.contrast_dropout > 0)

    @model_validator(mode="after")
    def _start_is_a_source_and_the_target_none(self) -> "DataConfig":
        if len(set(self.contrasts)) < len(self.contrasts):
            raise ValueError(f"contrasts {list(self.contrasts)} names one twice")
        if not self.planes or len(set(self.planes)) < len(self.planes):
            raise ValueError(f"planes {list(self.planes)} names {'one twice' if self.planes else 'none'}")
        if self.source_contrast not in self.contrasts:
            raise ValueError(f"start is '{self.source_contrast}', which is not among contrasts {list(self.contrasts)}")
        if self.target in self.contrasts:
            raise ValueError(
                f"target '{self.target}' is among contrasts {list(self.contrasts)}: it is what is asked for"
            )
        if self.phantoms is not None and self.root is not None and self.phantom_fraction == 0:
            raise ValueError("phantoms are given, but phantom_fraction is 0: none would be drawn")
        if (self.split is None) != (self.fold is None):
            raise ValueError("split and fold go together")
        return self
