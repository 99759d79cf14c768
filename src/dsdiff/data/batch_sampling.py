"""A batch of training slices: random crops of random slices, augmented, some without some source contrasts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor

from dsdiff.data.augment_geometry import augment_geometry
from dsdiff.data.augment_intensity import augment_intensity
from dsdiff.data.dataset import BRAIN, LESION, SliceStack, TrainingPatient
from dsdiff.data.settings import AugmentConfig, DataConfig, Flip
from dsdiff.errors import InputError
from dsdiff.preprocessing.planes import Plane
from dsdiff.style import regression


@dataclass(frozen=True)
class Batch:
    """Training slices.

    Attributes:
        sources: (b, s, d, h, w) robust z-scores of s source contrasts in d neighboring slices.
        target: (b, 1, h, w) robust z-scores of the target.
        region: (b, 1, h, w) region map, see `dataset.Slices`.
        present: (b, s) which contrasts a network may use, see `types.Condition`.
        style_image: (b, 1, h, w) sources rendered with a style code; None if patients have no style codes.
        case_names: The case of each slice.
    """

    sources: Float[Tensor, "b s d h w"]
    target: Float[Tensor, "b 1 h w"]
    region: Integer[Tensor, "b 1 h w"]
    present: Bool[Tensor, "b s"]
    style_image: Float[Tensor, "b 1 h w"] | None = None
    case_names: tuple[str, ...] = ()

    def select(self, rows: slice) -> "Batch":
        """Select slices of the batch.

        Args:
            rows: Range of the slices to select.

        Returns:
            A batch of views, so that page-locked memory stays page-locked.
        """
        tensors: dict[str, Any] = {name: value[rows] for name, value in self._tensors().items()}
        return replace(self, **tensors, case_names=self.case_names[rows])

    def pin_memory(self) -> "Batch":
        """Copy the batch to page-locked memory, from which a GPU copies while it computes.

        Returns:
            The copy.
        """
        tensors: dict[str, Any] = {name: value.pin_memory() for name, value in self._tensors().items()}
        return replace(self, **tensors)

    @staticmethod
    def concatenate(batches: Sequence["Batch"]) -> "Batch":
        """Concatenate batches.

        Args:
            batches: Batches of one crop, all with a style image or all without one.

        Returns:
            One batch of all slices.
        """
        style_images = [batch.style_image for batch in batches if batch.style_image is not None]
        return Batch(
            sources=torch.cat([batch.sources for batch in batches]),
            target=torch.cat([batch.target for batch in batches]),
            region=torch.cat([batch.region for batch in batches]),
            present=torch.cat([batch.present for batch in batches]),
            style_image=torch.cat(style_images) if style_images else None,
            case_names=tuple(chain.from_iterable(batch.case_names for batch in batches)),
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


def sample_batch(
    patients: Sequence[TrainingPatient],
    size: int,
    data: DataConfig,
    rng: np.random.Generator,
    plane: Plane = "axial",
) -> Batch:
    """Sample random slices of random patients, each cropped around a random voxel of brain or tumour.

    Args:
        patients: At least one patient. Either all have style codes or none has.
        size: Number of slices.
        data: Crop, context slices, and the fractions of slices with lesions, without contrasts, or with the expected
            style.
        rng: Source of all random numbers.
        plane: The plane of the slices.

    Returns:
        The slices, without augmentation.

    Raises:
        InputError: There is no patient, or a file of a store is damaged.
    """
    if not patients:
        raise InputError("no patient to sample slices from: give at least one")
    batches = []
    for _ in range(size):
        patient = patients[int(rng.integers(len(patients)))]
        batches.append(_sample_slice(patient, data, rng, plane))
    return Batch.concatenate(batches)


def _sample_slice(patient: TrainingPatient, data: DataConfig, rng: np.random.Generator, plane: Plane) -> Batch:
    """Sample one slice of a patient as a batch of one."""
    min_region = LESION if rng.random() < data.lesion_fraction else BRAIN
    candidates = patient.find_slices(min_region, plane)
    if not len(candidates):
        min_region = BRAIN
        candidates = patient.find_slices(BRAIN, plane)

    stack = patient.read_stack(int(rng.choice(candidates)), data.context_slices, plane)
    stack = _crop_stack(stack, _sample_corner(stack.region, min_region, data.crop, rng), data.crop)
    present = _sample_present(data, rng)

    style_image = None
    if patient.style_codes is not None:
        use_expected = rng.random() < data.style_dropout
        code = patient.style_codes.expected if use_expected else patient.style_codes.target
        center_slices = stack.sources[:, data.context_slices // 2]
        present_slices = np.where(present[:, None, None], center_slices, np.float32(0))
        style_image = regression.render_style_np(present_slices, code, stack.region > 0)

    return Batch(
        sources=torch.from_numpy(stack.sources)[None],
        target=torch.from_numpy(stack.target)[None, None],
        region=torch.from_numpy(stack.region)[None, None],
        present=torch.from_numpy(present)[None],
        style_image=None if style_image is None else torch.from_numpy(style_image)[None, None],
        case_names=(patient.name,),
    )


def _sample_present(data: DataConfig, rng: np.random.Generator) -> Bool[np.ndarray, " s"]:
    """Choose at random which contrasts a slice has. `data.source_contrast` is always present."""
    n_contrasts = len(data.contrasts)
    if not data.contrast_dropout:
        return np.ones(n_contrasts, bool)
    is_required = np.arange(n_contrasts) == data.contrasts.index(data.source_contrast)
    return (rng.random(n_contrasts) >= data.contrast_dropout) | is_required


def _sample_corner(
    region: Integer[np.ndarray, "h w"], min_region: int, crop: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int]:
    """Choose the first corner of a crop that contains a random voxel of a region, and as much of the slice as fits."""
    voxels = np.argwhere(region >= min_region)
    voxel = voxels[rng.integers(len(voxels))]
    corner = []
    for position, crop_size, slice_size in zip(voxel, crop, region.shape, strict=True):
        slack = slice_size - crop_size
        if slack <= 0:
            low, high = slack, 0
        else:
            low, high = max(0, int(position) - crop_size + 1), min(slack, int(position))
        corner.append(int(rng.integers(low, high + 1)))
    return corner[0], corner[1]


def _crop_stack(stack: SliceStack, corner: tuple[int, int], crop: tuple[int, int]) -> SliceStack:
    """Crop all images of a stack. The crop is zero where it reaches beyond the slice."""
    inside = []  # the part of the slice that the crop covers, along h and w
    for start, crop_size, slice_size in zip(corner, crop, stack.region.shape, strict=True):
        inside.append(slice(max(start, 0), min(start + crop_size, slice_size)))
    rows, columns = inside
    crop_rows = slice(rows.start - corner[0], rows.stop - corner[0])
    crop_columns = slice(columns.start - corner[1], columns.stop - corner[1])

    def crop_image(image: Shaped[np.ndarray, "... h w"]) -> Shaped[np.ndarray, "... _ _"]:
        cropped = np.zeros((*image.shape[:-2], *crop), image.dtype)
        cropped[..., crop_rows, crop_columns] = image[..., rows, columns]
        return cropped

    return SliceStack(crop_image(stack.sources), crop_image(stack.target), crop_image(stack.region))


def augment_batch(batch: Batch, config: AugmentConfig, generator: torch.Generator, plane: Plane = "axial") -> Batch:
    """Augment a batch: geometry of all its images, and intensity of the sources.

    Args:
        batch: The slices.
        config: Augmentations with their probabilities and strengths.
        generator: Source of all random numbers.
        plane: The plane of the slices.

    Returns:
        The augmented slices.
    """
    if plane == "sagittal":
        batch, config = _flip_sagittal(batch, config, generator)
    n_sources, depth = batch.sources.shape[1:3]
    n_channels = n_sources * depth

    style_images = [] if batch.style_image is None else [batch.style_image]
    images = torch.cat([batch.sources.flatten(1, 2), batch.target, *style_images], 1)  # b (s d + 1 or 2) h w
    images, region = augment_geometry(images, batch.region.float(), config, generator)

    sources = images[:, :n_channels].unflatten(1, (n_sources, depth))  # b s d h w
    return replace(
        batch,
        sources=augment_intensity(sources, config, generator),
        target=images[:, n_channels, None],
        region=region.to(batch.region.dtype),
        style_image=images[:, n_channels + 1 :] if style_images else None,
    )


def _flip_sagittal(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> tuple[Batch, AugmentConfig]:
    """Flip left and right of sagittal slices: the order of their context slices. The other augmentations remain."""
    is_flipped = torch.rand(len(batch.sources), generator=generator) < config.flip.probability
    sources = torch.where(is_flipped[:, None, None, None, None], batch.sources.flip(2), batch.sources)
    return replace(batch, sources=sources), config.model_copy(update={"flip": Flip(probability=0)})
