"""Images of one patient for the evaluation report: one axial slice of inputs, synthetic and acquired T1ce, and maps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.colors import Colormap, LinearSegmentedColormap

from dsdiff.evaluation import enhancement, voxelwise
from dsdiff.evaluation.patient_scores import ScoredPatient
from dsdiff.reporting import figures, slice_views
from dsdiff.volume import Mask3D, Volume3D

ERROR_COLORMAP: Colormap = LinearSegmentedColormap.from_list(
    "error", ["#7cc4ff", "#1f6fd0", "#0b0d10", "#d0481f", "#ffc08a"]
)
ERROR_RANGE = 3.0  # robust standard deviations
MARGIN = 4  # voxels around the brain
GRAY_OPACITY, OVERLAY_OPACITY = 0.15, 0.85


@dataclass(frozen=True)
class Panel:
    """An image as data URI, with title and size. The size is in mm, so that anisotropic voxels are shown right."""

    title: str
    uri: str
    width: float
    height: float


def color_legend() -> dict[str, tuple[float, float, str]]:
    """Describe the colors of the panels.

    Returns:
        Map -> value at either end in robust standard deviations, and the colors between as a CSS background.
    """
    low, high = slice_views.ENHANCEMENT_RANGE
    first_color = (enhancement.ENHANCEMENT_THRESHOLD - low) / (high - low)  # less enhancement is transparent
    enhancement_css = slice_views.css_gradient(slice_views.ENHANCEMENT_COLORMAP, first_color)
    uncertainty_css = slice_views.css_gradient(slice_views.UNCERTAINTY_COLORMAP)
    return {
        "error": (-ERROR_RANGE, ERROR_RANGE, slice_views.css_gradient(ERROR_COLORMAP)),
        "enhancement": (enhancement.ENHANCEMENT_THRESHOLD, high, enhancement_css),
        "uncertainty": (*slice_views.UNCERTAINTY_RANGE, uncertainty_css),
    }


def select_slice(patient: ScoredPatient, acquired_mask: Mask3D) -> int:
    """Select the axial slice to show.

    Args:
        patient: The patient.
        acquired_mask: Where the acquired T1ce enhances.

    Returns:
        Index of the slice with most segmented enhancement. Without any: most enhancement of the acquired T1ce in the
        tumour, most tumour, or most brain.
    """
    regions = patient.regions
    for mask in (regions.enhancing, acquired_mask & regions.tumour, regions.tumour, regions.brain):
        if mask.any():
            return int(mask.sum((0, 1)).argmax())
    return 0


def patient_panels(patient: ScoredPatient) -> list[Panel]:
    """Render the images of one patient.

    Args:
        patient: The patient.

    Returns:
        T1, synthetic and acquired T1ce, error, synthetic and true enhancement, and uncertainty; without T1 or
        uncertainty the images that need it are left out.

    Raises:
        InputError: An image is constant over most of the brain.
    """
    cropped = patient.crop_to_brain()
    image, truth, t1 = cropped.robust_zscores()
    brain = cropped.regions.brain

    overlays: dict[str, tuple[Volume3D, Volume3D]] = {}
    acquired_mask = np.zeros_like(brain)
    if t1 is not None:
        synthetic_map = enhancement.enhancement_map(image, t1, brain, cropped.spacing)
        acquired_map = enhancement.enhancement_map(truth, t1, brain, cropped.spacing)
        overlays = {"synthetic enhancement": (image, synthetic_map), "true enhancement": (truth, acquired_map)}
        acquired_mask = acquired_map > enhancement.ENHANCEMENT_THRESHOLD

    axial_slice = _AxialSlice(cropped, select_slice(cropped, acquired_mask))
    images = {} if t1 is None else {"T1": axial_slice.gray(t1)}
    images["synthetic T1ce"] = axial_slice.gray(image)
    images["acquired T1ce"] = axial_slice.gray(truth)
    error_range = (-ERROR_RANGE, ERROR_RANGE)
    images["error, synthetic minus acquired"] = axial_slice.colored(image - truth, ERROR_COLORMAP, error_range)
    for title, (gray, enhancement_values) in overlays.items():
        images[title] = axial_slice.overlaid(gray, enhancement_values)
    if cropped.std is not None:
        std = cropped.std / voxelwise.robust_scale(cropped.image, brain)[1]
        images["uncertainty"] = axial_slice.colored(
            std, slice_views.UNCERTAINTY_COLORMAP, slice_views.UNCERTAINTY_RANGE
        )
    return [axial_slice.panel(title, pixels) for title, pixels in images.items()]


class _AxialSlice:
    """Renders one axial slice of a patient as RGB images, black outside the brain."""

    def __init__(self, patient: ScoredPatient, z: int) -> None:
        self.brain = patient.regions.brain
        self.spacing = patient.spacing
        self.z = z

    def view(self, volume: Volume3D | Mask3D) -> np.ndarray:
        return slice_views.slice_view(np.asarray(volume, np.float64), (0, 0, self.z), "axial", MARGIN)

    def brain_view(self) -> Bool[np.ndarray, "h w"]:
        return self.view(self.brain) > 0

    def gray(self, image: Volume3D) -> Float[np.ndarray, "h w 3"]:
        low, high = slice_views.gray_window(image, self.brain)
        level = np.clip((self.view(image) - low) / (high - low), 0, 1) * self.brain_view()
        return np.repeat(level[..., None], 3, -1)

    def colored(self, values: Volume3D, colormap: Colormap, limits: tuple[float, float]) -> Float[np.ndarray, "h w 3"]:
        low, high = limits
        level = np.clip((self.view(values) - low) / (high - low), 0, 1)
        return colormap(level)[..., :3] * self.brain_view()[..., None]

    def overlaid(self, image: Volume3D, enhancement_values: Volume3D) -> Float[np.ndarray, "h w 3"]:
        """Show enhancement from the threshold on in color over the gray image."""
        gray = self.gray(image)
        colors = self.colored(enhancement_values, slice_views.ENHANCEMENT_COLORMAP, slice_views.ENHANCEMENT_RANGE)
        is_shown = (self.view(enhancement_values) > enhancement.ENHANCEMENT_THRESHOLD) & self.brain_view()
        return np.where(is_shown[..., None], GRAY_OPACITY * gray + OVERLAY_OPACITY * colors, gray)

    def panel(self, title: str, pixels: Float[np.ndarray, "h w 3"]) -> Panel:
        height, width, _ = pixels.shape
        uri = figures.png_data_uri(figures.encode_png(pixels))
        return Panel(title, uri, width * self.spacing[0], height * self.spacing[1])
