"""One axial slice of a patient in pictures: inputs, what was made, what is true, and where they differ."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.image import imsave

from dsdiff.evaluation import enhancement, voxelwise
from dsdiff.evaluation.patient_scores import Patient
from dsdiff.evaluation.voxelwise import Image, Mask
from dsdiff.reporting import slice_views

ERROR_COLOURS: Colormap = LinearSegmentedColormap.from_list(
    "error", ["#7cc4ff", "#1f6fd0", "#0b0d10", "#d0481f", "#ffc08a"]
)
ERROR_RANGE = 3.0  # robust standard deviations
MARGIN = 4  # voxels about the brain


@dataclass(frozen=True)
class Panel:
    """A PNG in base64 and what it shows; the sizes are in mm, so that voxels that are not square look right."""

    title: str
    png: str
    width: float
    height: float


def legend() -> dict[str, tuple[float, float, str]]:
    """What the colours of the panels stand for: lowest and highest robust standard deviation, and the colours between
    them as a CSS background.
    """
    low, high = slice_views.ENHANCEMENT_RANGE
    first = (enhancement.THRESHOLD - low) / (high - low)  # less is not drawn
    return {
        "error": (-ERROR_RANGE, ERROR_RANGE, slice_views.gradient(ERROR_COLOURS)),
        "enhancement": (enhancement.THRESHOLD, high, slice_views.gradient(slice_views.ENHANCEMENT_COLOURS, first)),
        "uncertainty": (*slice_views.SPREAD_RANGE, slice_views.gradient(slice_views.SPREAD_COLOURS)),
    }


def show_slice(patient: Patient, true: Mask) -> int:
    """The axial slice with most segmented enhancement; else most of the true map in the tumour, of tumour, of brain."""
    where = patient.regions
    for mask in (where.enhancing, true & where.tumour, where.tumour, where.brain):
        if mask.any():
            return int(mask.sum((0, 1)).argmax())
    return 0


def panels(patient: Patient) -> list[Panel]:
    """T1, synthetic and acquired T1ce, error, enhancement made and true, and uncertainty where there is one.

    Raises `InputError` for a constant image.
    """
    small = patient.boxed()
    image, truth, t1 = small.robust()
    brain = small.regions.brain
    maps = [] if t1 is None else [
        enhancement.enhancement_map(one, t1, brain, small.spacing) for one in (image, truth)
    ]  # fmt: skip
    cut = _Cut(small, show_slice(small, maps[1] > enhancement.THRESHOLD if maps else np.zeros_like(brain)))
    shown = {} if t1 is None else {"T1": cut.grey(t1)}
    shown |= {"synthetic T1ce": cut.grey(image), "acquired T1ce": cut.grey(truth)}
    shown["error, synthetic minus acquired"] = cut.coloured(image - truth, ERROR_COLOURS, -ERROR_RANGE, ERROR_RANGE)
    if maps:
        shown["synthetic enhancement"] = cut.over(image, maps[0])
        shown["true enhancement"] = cut.over(truth, maps[1])
    if small.std is not None:
        shown["uncertainty"] = cut.coloured(
            small.std / voxelwise.robust_scale(small.image, brain)[1],
            slice_views.SPREAD_COLOURS,
            *slice_views.SPREAD_RANGE,
        )
    return [cut.panel(title, picture) for title, picture in shown.items()]


class _Cut:
    """One axial slice of a patient, as pictures."""

    def __init__(self, patient: Patient, z: int) -> None:
        self.brain, self.spacing, self.z = patient.regions.brain, patient.spacing, z

    def plane(self, volume: Image | Mask) -> np.ndarray:
        return slice_views.plane(np.asarray(volume, np.float64), (0, 0, self.z), "axial", MARGIN)

    def inside(self) -> Bool[np.ndarray, "h w"]:
        return self.plane(self.brain) > 0

    def grey(self, image: Image) -> Float[np.ndarray, "h w 3"]:
        low, high = slice_views.window(image, self.brain)
        level = np.clip((self.plane(image) - low) / (high - low), 0, 1) * self.inside()
        return np.repeat(level[..., None], 3, -1)

    def coloured(self, image: Image, colours: Colormap, low: float, high: float) -> Float[np.ndarray, "h w 3"]:
        level = np.clip((self.plane(image) - low) / (high - low), 0, 1)
        return colours(level)[..., :3] * self.inside()[..., None]

    def over(self, image: Image, enhances: Image) -> Float[np.ndarray, "h w 3"]:
        low, high = slice_views.ENHANCEMENT_RANGE
        colours = self.coloured(enhances, slice_views.ENHANCEMENT_COLOURS, low, high)
        drawn = (self.plane(enhances) > enhancement.THRESHOLD) & self.inside()
        return np.where(drawn[..., None], 0.15 * self.grey(image) + 0.85 * colours, self.grey(image))

    def panel(self, title: str, picture: Float[np.ndarray, "h w 3"]) -> Panel:
        buffer = io.BytesIO()
        imsave(buffer, (255 * picture).round().astype(np.uint8), format="png", metadata={"Software": "dsdiff"})
        h, w, _ = picture.shape
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return Panel(title, encoded, w * self.spacing[0], h * self.spacing[1])
