"""Which input contrast drives each enhancement: each contrast is occluded in turn, and the change is mapped."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from dsdiff.conditioning.style_image import render_slice_style
from dsdiff.evaluation.enhancement import ENHANCEMENT_THRESHOLD
from dsdiff.inference.model import Model
from dsdiff.inference.options import FractionCallback, SynthesisOptions, ignore_fraction
from dsdiff.inference.pipeline import Pipeline, SynthesizedCase
from dsdiff.inference.style_reference import StyleReference
from dsdiff.preprocessing import slices
from dsdiff.preprocessing.geometry import Geometry
from dsdiff.preprocessing.normalize import LoadedCase, PreprocessedCase
from dsdiff.reporting import preview
from dsdiff.types import Condition
from dsdiff.volume import Slice2D, Volume3D, VoxelSpacing

MIN_ENHANCEMENT_ML = 0.1  # a smaller enhancement is not reported
MAX_ENHANCEMENTS = 3  # that are reported, the one with most lesion in it first


@dataclass(frozen=True)
class Enhancement:
    """One connected enhancement.

    Attributes:
        point: Voxel (x, y, z) of the brain's box with most lesion around it.
        ml: Volume.
        mean: Mean enhancement, robust standard deviations.
        contributions: Contrast -> share of the mean that is lost when the contrast is occluded; below 0 if more
            enhances without it.
    """

    point: tuple[int, int, int]
    ml: float
    mean: float
    contributions: dict[str, float]

    @property
    def driver(self) -> str:
        """The contrast with the largest contribution.

        Returns:
            Its name.
        """
        return max(self.contributions, key=lambda contrast: self.contributions[contrast])


@dataclass(frozen=True)
class Explanation:
    """What each contrast contributes to the enhancement of a case.

    Attributes:
        result: The synthesis with all contrasts.
        geometry: Where the case lies in its files.
        enhancement: T1ce minus source contrast, robust standard deviations.
        contribution_maps: Contrast -> the enhancement that is lost when the contrast is occluded.
        occlusion_methods: Contrast -> how it was occluded: "withheld" or "mirrored".
        std: Uncertainty: error predicted by the network, else standard deviation over samples, else None.
        enhancements: The connected enhancements with most lesion in them.
    """

    result: SynthesizedCase
    geometry: Geometry
    enhancement: Volume3D
    contribution_maps: dict[str, Volume3D]
    occlusion_methods: dict[str, str]
    std: Volume3D | None
    enhancements: tuple[Enhancement, ...]


def explain(
    loaded: LoadedCase, model: Model, samples: int = 4, progress: FractionCallback = ignore_fraction
) -> Explanation:
    """Synthesize a case with all of its contrasts and without each of them.

    A contrast that the model allows to be absent is withheld. Another is replaced by its own mirror image: a lesion on
    one side loses this contrast's signal, and tissue stays tissue. The style is that of the complete case throughout,
    so that no contrast contributes by the choice of another style.

    Args:
        loaded: The case.
        model: The model.
        samples: For the uncertainty of a model that does not predict its error; 1 for none.
        progress: Called with the fraction of the work that is done.

    Returns:
        The contribution of each contrast.
    """
    case, source_contrast = loaded.case, model.config.data.source_contrast
    contrasts = [contrast for contrast in model.contrasts if contrast in case.images]
    needs_samples = samples > 1 and not model.process.predict_error
    n_syntheses = 1 + len(contrasts) + needs_samples

    result = Pipeline(model).synthesize_preprocessed(case)
    enhancement = compute_enhancement(result, source_contrast)
    style = None if result.style_code is None else StyleReference("the complete case", result.style_code)
    pipeline = Pipeline(model, SynthesisOptions(style=style))

    contribution_maps, occlusion_methods = {}, {}
    for n_done, contrast in enumerate(contrasts, 1):
        progress(n_done / n_syntheses)
        is_optional = contrast in model.config.data.optional
        occluded_case = drop_contrast(case, contrast) if is_optional else mirror_contrast(case, contrast)
        occluded = compute_enhancement(pipeline.synthesize_preprocessed(occluded_case), source_contrast)
        contribution_maps[contrast] = enhancement - occluded
        occlusion_methods[contrast] = "withheld" if is_optional else "mirrored"

    std = result.z_std
    if needs_samples:
        std = Pipeline(model, SynthesisOptions(samples=samples)).synthesize_preprocessed(case).z_std
    progress(1.0)

    lesion = preview.lesion_mass(enhancement, case)
    enhancements = find_enhancements(enhancement, contribution_maps, lesion, case.spacing)
    return Explanation(result, loaded.geometry, enhancement, contribution_maps, occlusion_methods, std, enhancements)


def compute_enhancement(result: SynthesizedCase, source_contrast: str) -> Volume3D:
    """Subtract the pre-contrast image from the T1ce.

    Args:
        result: The synthesized case.
        source_contrast: Name of the pre-contrast image.

    Returns:
        Robust standard deviations, zero outside the brain.
    """
    return np.where(result.case.brain, result.z - result.case.images[source_contrast], 0)


def drop_contrast(case: PreprocessedCase, contrast: str) -> PreprocessedCase:
    """Remove a contrast from a case.

    Args:
        case: The case.
        contrast: The name.

    Returns:
        The case without it.
    """
    return replace(case, images={name: image for name, image in case.images.items() if name != contrast})


def mirror_contrast(case: PreprocessedCase, contrast: str) -> PreprocessedCase:
    """Mirror one contrast of a case from left to right, about the middle of the brain.

    Args:
        case: The case.
        contrast: The name.

    Returns:
        The case with its median (0) where the mirrored voxel lies outside the brain.
    """
    mirrored = case.images[contrast][::-1] * case.brain
    return replace(case, images={**case.images, contrast: mirrored})


def find_enhancements(
    enhancement: Volume3D, contribution_maps: Mapping[str, Volume3D], lesion: Volume3D, spacing: VoxelSpacing
) -> tuple[Enhancement, ...]:
    """Find the connected enhancements and what each contrast contributes to them.

    Args:
        enhancement: (x, y, z) robust standard deviations.
        contribution_maps: Contrast -> enhancement lost without it.
        lesion: (x, y, z) mass of lesion around each voxel, see `preview.lesion_mass`.
        spacing: Voxel size in mm.

    Returns:
        At most `MAX_ENHANCEMENTS`, that with most lesion first.
    """
    labels, n_components = ndimage.label(enhancement > ENHANCEMENT_THRESHOLD)
    ml = np.bincount(labels.ravel(), minlength=n_components + 1)[1:] * float(np.prod(spacing)) / 1000
    lesion_sums = ndimage.sum_labels(lesion, labels, np.arange(1, n_components + 1))
    components = [i for i in np.argsort(-lesion_sums) if ml[i] >= MIN_ENHANCEMENT_ML][:MAX_ENHANCEMENTS]

    enhancements = []
    for i in components:
        region = labels == 1 + i
        mean = float(enhancement[region].mean())
        contributions = {
            contrast: float(contribution[region].mean() / mean) for contrast, contribution in contribution_maps.items()
        }
        peak = np.where(region, lesion, -1).argmax()
        x, y, z = (int(index) for index in np.unravel_index(peak, region.shape))
        enhancements.append(Enhancement((x, y, z), float(ml[i]), mean, contributions))
    return tuple(enhancements)


@torch.inference_mode()
def condition_at(result: SynthesizedCase, model: Model, z: int) -> tuple[Condition, slices.Box]:
    """Rebuild the condition of one axial slice.

    Args:
        result: The synthesized case.
        model: The model.
        z: Index of a slice with brain, in the brain's box.

    Returns:
        The condition and the position of the slice.
    """
    case = result.case
    (box,) = (box for box in slices.brain_boxes(case.brain, model.multiple) if box.z == z)
    crop = slices.stack_contrasts(case, model.contrasts).take(box, model.config.data.context_slices)

    sources = torch.from_numpy(crop[None]).to(model.device)  # 1 s d h w
    present = torch.tensor([[contrast in case.images for contrast in model.contrasts]], device=model.device)
    style_image = None
    if result.style_code is not None:
        weights = torch.from_numpy(result.style_code.weights)
        style_image = render_slice_style(weights, result.style_code.kind, sources, present)
    return model.network.condition(sources, present, style_image), box


def paste_slice(image: Slice2D, box: slices.Box, shape: tuple[int, ...]) -> Volume3D:
    """Put one slice into a volume of one slice.

    Args:
        image: (h, w) slice.
        box: Its position.
        shape: Shape of the case; its first two sides are used.

    Returns:
        (x, y, 1) array, zero outside the box.
    """
    volume = np.zeros((*shape[:2], 1), np.float32)
    slices.add_slice(volume, image, replace(box, z=0))
    return volume
