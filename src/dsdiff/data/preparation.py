"""From the files of a case to what training keeps of it: preprocessed, cut to the brain, with a region map."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Integer, Shaped

from dsdiff.data.dataset import ENHANCING, LESION, InMemorySlices, TrainingPatient
from dsdiff.io.cases import Case, load_volumes
from dsdiff.io.segmentation import enhancing_label, tumour_mask
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import normalize
from dsdiff.preprocessing.geometry import IntensityScale
from dsdiff.qc.features import FEATURE_GROUPS, Features, measure_features
from dsdiff.volume import Mask3D, Volume3D, VoxelSpacing


@dataclass(frozen=True)
class CroppedCase:
    """A preprocessed case in the brain's bounding box, slices first.

    Attributes:
        images: By contrast, (z, x, y) robust z-scores as float16.
        region: (z, x, y) region map, see `dataset.Slices`.
        scales: By contrast, the map from intensities to z-scores.
        spacing: Voxel size in mm along x, y, z.
        warnings: Warnings of the preprocessing.
        features: Features of the sources, by group; see `qc.features.measure_features`.
    """

    images: dict[str, Float[np.ndarray, "z x y"]]
    region: Integer[np.ndarray, "z x y"]
    scales: dict[str, IntensityScale]
    spacing: VoxelSpacing
    warnings: tuple[str, ...]
    features: dict[str, Features] = field(default_factory=dict)


def crop_case(case: Case, contrasts: Sequence[str], target: str, source_contrast: str) -> CroppedCase:
    """Read a case, preprocess it and cut it to its brain.

    Args:
        case: The case.
        contrasts: Source contrasts to read.
        target: The target contrast.
        source_contrast: The contrast whose foreground is the brain.

    Returns:
        The case. Its region map has a tumour if the case has a segmentation.

    Raises:
        InputError: A file cannot be read or preprocessed.
    """
    segmentation_names = ["seg"] if "seg" in case.contrasts else []
    volumes = load_volumes(case, (*contrasts, target, *segmentation_names))
    segmentation = volumes.pop("seg", None)

    loaded = normalize.preprocess(volumes, source_contrast)
    preprocessed, geometry = loaded.case, loaded.geometry
    target_array = to_canonical(volumes[target]).array
    uncovered = normalize.uncovered_brain(target_array, geometry.uncrop(preprocessed.brain))[geometry.box]
    labels = None if segmentation is None else to_canonical(segmentation).array[geometry.box]
    region = _draw_region_map(preprocessed.brain, labels, uncovered, case.name)

    source_images = {name: preprocessed.images[name] for name in contrasts}
    features = measure_features(replace(preprocessed, images=source_images))

    return CroppedCase(
        images={name: _slices_first(image).astype(np.float16) for name, image in preprocessed.images.items()},
        region=_slices_first(region),
        scales=dict(geometry.scales),
        spacing=preprocessed.spacing,
        warnings=preprocessed.warnings,
        features={group: features[group] for group in FEATURE_GROUPS},
    )


def load_patient(case: Case, contrasts: Sequence[str], target: str, source_contrast: str = "t1") -> TrainingPatient:
    """Read one training case into memory.

    Args:
        case: The case.
        contrasts: Source contrasts to read.
        target: The target contrast.
        source_contrast: The contrast whose foreground is the brain.

    Returns:
        The patient.

    Raises:
        InputError: A file cannot be read or preprocessed.
    """
    cropped = crop_case(case, contrasts, target, source_contrast)
    images = np.stack([cropped.images[name] for name in (*contrasts, target)])
    return TrainingPatient.from_slices(case.name, InMemorySlices(images, cropped.region), cropped.features)


def _draw_region_map(
    brain: Mask3D, labels: Volume3D | None, uncovered: Mask3D, case_name: str
) -> Integer[np.ndarray, "x y z"]:
    """Combine brain and tumour labels to one map. Uncovered voxels count as outside the brain."""
    region = brain.astype(np.uint8)
    if labels is not None:
        region[tumour_mask(labels, brain, case_name)] = LESION
        region[(labels == enhancing_label(labels)) & brain] = ENHANCING
    region[uncovered] = 0
    return region


def _slices_first(image: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "z x y"]:
    return np.ascontiguousarray(image.transpose(2, 0, 1))
