"""Which patients a training sees, and how their slices are cut and augmented: the `data` block of a config."""

from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from dsdiff.preprocessing.planes import Plane
from dsdiff.schema import ConfigModel
from dsdiff.system.config_path import OptionalPath

TARGET = "t1ce"  # the contrast that is synthesized and scored


class Augmentation(ConfigModel):
    """One kind of augmentation.

    Attributes:
        probability: Fraction of the slices (for intensity: of their contrasts) that are changed. 0 turns it off.
    """

    probability: float = Field(0.0, ge=0, le=1)


class Flip(Augmentation):
    """Exchange left and right."""

    probability: float = Field(0.5, ge=0, le=1)


class Affine(Augmentation):
    """Rotate, scale and shear.

    Attributes:
        degrees: Largest rotation.
        zoom: The scale lies between exp(-zoom) and exp(zoom).
        shear: Largest shear.
    """

    probability: float = Field(1.0, ge=0, le=1)
    degrees: float = Field(12.0, ge=0, le=180)
    zoom: float = Field(0.12, ge=0, le=1)
    shear: float = Field(0.08, ge=0, le=1)


class Elastic(Augmentation):
    """Displace smoothly.

    Attributes:
        pixels: Largest displacement of a control point; between two of them it may be 1.5 times as large.
        spacing: Distance of control points in pixels.
    """

    pixels: float = Field(4.0, gt=0)
    spacing: int = Field(32, ge=4)


class RandomScanner(Augmentation):
    """Simulate another scanner: gain, a smooth curve of intensity, and a bias field.

    Attributes:
        strength: Largest relative change by gain and curve, and largest bias along each axis and in its saddle. In a
            corner the three biases may add up.
    """

    probability: float = Field(1.0, ge=0, le=1)
    strength: float = Field(0.25, gt=0, lt=1)


class Bias(Augmentation):
    """Multiply intensities by a smooth field.

    Attributes:
        strength: The field lies roughly between exp(-strength) and exp(strength).
    """

    strength: float = Field(0.3, gt=0)


class Gamma(Augmentation):
    """Raise intensities to a power. Median and width of the brain stay.

    Attributes:
        strength: The power lies between exp(-strength) and exp(strength).
    """

    strength: float = Field(0.4, gt=0)


class Noise(Augmentation):
    """Add Gaussian noise.

    Attributes:
        strength: Largest standard deviation, in robust z-scores.
    """

    strength: float = Field(0.3, gt=0)


class Blur(Augmentation):
    """Blur in the plane with a Gaussian.

    Attributes:
        strength: Largest standard deviation, in pixels.
    """

    strength: float = Field(1.5, gt=0)


class RandomAnisotropy(Augmentation):
    """Simulate thick slices along h, along w, or through the context slices, interpolated back.

    Attributes:
        max_thickness: Largest thickness in pixels; the smallest is 2.
    """

    max_thickness: float = Field(6.0, ge=2)


class AugmentConfig(ConfigModel):
    """All augmentations. The defaults are those of the shipped model's training."""

    flip: Flip = Flip()
    affine: Affine = Affine()
    elastic: Elastic = Elastic()
    scanner: RandomScanner = RandomScanner()
    bias: Bias = Bias()
    gamma: Gamma = Gamma()
    blur: Blur = Blur()
    anisotropy: RandomAnisotropy = RandomAnisotropy()
    noise: Noise = Noise()

    @staticmethod
    def off() -> "AugmentConfig":
        """Turn every augmentation off.

        Returns:
            A config in which all probabilities are 0.
        """
        return AugmentConfig.model_validate({name: {"probability": 0} for name in AugmentConfig.model_fields})


class DataConfig(ConfigModel):
    """Patients, contrasts and slices of a training.

    Attributes:
        root: A folder of cases, or a store that `dsdiff prepare` made.
        phantoms: A folder or a store of simulated cases.
        phantom_fraction: Fraction of the training slices that come from phantoms.
        split: A split file.
        fold: The fold of the split that is held out for validation.
        contrasts: Source contrasts.
        source_contrast: The source contrast whose foreground is the brain, and which every case must have.
        target: The contrast to synthesize.
        planes: Planes of the slices. Training takes each slice from one of them, synthesis averages over them.
        context_slices: Neighboring slices that a network sees, its own included.
        crop: Height and width of training crops, in pixels.
        lesion_fraction: Fraction of the training slices that are sampled among those with tumour, if a patient has any.
            The others are sampled among all slices with brain.
        augment: Augmentations. true means the defaults, false none.
        target_style: "own" trains on the T1ce as it was acquired, "average" on one in the average style of the training
            patients (see `style.regression`).
        contrast_dropout: Fraction of the training slices that lack a contrast, for each contrast but
            `source_contrast`. Above 0, the model also accepts cases without these contrasts.
        style_dropout: Fraction of the training slices that get the expected style in place of the target's own, for
            networks that are conditioned on style.
    """

    root: OptionalPath = None
    phantoms: OptionalPath = None
    phantom_fraction: float = Field(0.0, ge=0, le=1)
    split: OptionalPath = None
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
    def _parse_augment_switch(cls, value: Any) -> Any:
        if not isinstance(value, bool):
            return value
        return AugmentConfig() if value else AugmentConfig.off()

    @property
    def optional(self) -> tuple[str, ...]:
        """The contrasts that a case may lack.

        Returns:
            Names of contrasts that training leaves out at random.
        """
        if self.contrast_dropout == 0:
            return ()
        return tuple(name for name in self.contrasts if name != self.source_contrast)

    @model_validator(mode="after")
    def _check_contrasts(self) -> "DataConfig":
        contrasts = list(self.contrasts)
        if len(set(contrasts)) < len(contrasts):
            raise ValueError(f"contrasts {contrasts} names one twice")
        if self.source_contrast not in contrasts:
            raise ValueError(f"source_contrast is '{self.source_contrast}', which is not among contrasts {contrasts}")
        if self.target in contrasts:
            raise ValueError(f"target '{self.target}' is among contrasts {contrasts}; the target cannot be a source")
        return self

    @model_validator(mode="after")
    def _check_planes(self) -> "DataConfig":
        planes = list(self.planes)
        if not planes:
            raise ValueError("planes is empty; name at least one plane")
        if len(set(planes)) < len(planes):
            raise ValueError(f"planes {planes} names one twice")
        return self

    @model_validator(mode="after")
    def _check_patients(self) -> "DataConfig":
        if self.phantoms is not None and self.root is not None and self.phantom_fraction == 0:
            raise ValueError("phantoms is set, but phantom_fraction is 0, so no phantom would be used; set it above 0")
        if (self.split is None) != (self.fold is None):
            raise ValueError("split and fold go together; set both or neither")
        return self
