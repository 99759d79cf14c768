"""Patients in memory, as training draws them: random crops of slices, the same for the same seed and step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from dsdiff.data import augment, cases, preprocess, style
from dsdiff.data.cases import Case
from dsdiff.data.labels import TUMOUR, enhancing_label
from dsdiff.data.style import LinearRegression
from dsdiff.errors import InputError


@dataclass(frozen=True)
class Patient:
    """One case in the brain's bounding box, slices first. region: 0 outside, 1 brain, 2 tumour, 3 enhancing.

    styles: codes of the target's own style and of the average one (see `data.style`), where style is to be told.
    """

    name: str
    images: Float[np.ndarray, "c z x y"]  # sources, then the target; float16
    region: Integer[np.ndarray, "z x y"]
    styles: tuple[Float[np.ndarray, " f"], Float[np.ndarray, " f"]] | None = None

    def slices_with(self, least: int) -> np.ndarray:
        """Slices in which some voxel's region is at least `least`."""
        return np.flatnonzero((self.region >= least).any((1, 2)))


@dataclass(frozen=True)
class Batch:
    """Training slices. sources: robust z-scores; region as in `Patient`; present: see `Condition`.

    styled: the slices in the style that is told, None where none is or the average is to be taken.
    """

    sources: Float[Tensor, "b s d h w"]
    target: Float[Tensor, "b 1 h w"]
    region: Integer[Tensor, "b 1 h w"]
    present: Bool[Tensor, "b s"]
    styled: Float[Tensor, "b 1 h w"] | None = None

    def part(self, index: Integer[Tensor, " n"]) -> "Batch":
        """Some of the slices."""
        styled = None if self.styled is None else self.styled[index]
        return Batch(self.sources[index], self.target[index], self.region[index], self.present[index], styled)

    @staticmethod
    def joined(parts: Sequence["Batch"]) -> "Batch":
        """The slices of several batches, all with a style or all without."""
        fields = ("sources", "target", "region", "present")
        whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in fields}
        styled = [part.styled for part in parts if part.styled is not None]
        return Batch(**whole, styled=torch.cat(styled) if styled else None)


def load(case: Case, contrasts: Sequence[str], target: str, start: str = "t1") -> Patient:
    """Read and prepare one training case; the brain is that of `start`. Raises what reading and preparing raise."""
    wanted = (*contrasts, target, *(("seg",) if "seg" in case.files else ()))
    volumes = cases.load(case, wanted)
    seg = volumes.pop("seg", None)
    prepared = preprocess.apply(volumes, start)
    region = prepared.brain.astype(np.uint8)
    if seg is not None:
        labels = preprocess.to_canonical(seg).array
        region[np.isin(labels, TUMOUR) & prepared.brain] = 2
        region[(labels == enhancing_label(labels)) & prepared.brain] = 3
    box = tuple(slice(edge.min(), edge.max() + 1) for edge in np.nonzero(prepared.brain))
    images = np.stack([prepared.images[name][box] for name in (*contrasts, target)]).astype(np.float16)
    return Patient(case.name, images.transpose(0, 3, 1, 2).copy(), region[box].transpose(2, 0, 1).copy())


def average_style(patients: Sequence[Patient]) -> LinearRegression:
    """The average style of these patients' targets (see `data.style`)."""
    return LinearRegression.merged(_own_style(patient) for patient in patients)


def in_style(patients: Sequence[Patient], wanted: LinearRegression) -> list[Patient]:
    """The patients with their targets in one style: what no input can tell is taken out of what is asked for."""
    restyled = []
    for patient in patients:
        *sources, target = patient.images
        images, brain = patient.images.copy(), patient.region > 0
        images[-1] = style.restyled(sources, target.astype(np.float32), brain, _own_style(patient), wanted)
        restyled.append(replace(patient, images=images))
    return restyled


def with_styles(patients: Sequence[Patient], average: LinearRegression) -> list[Patient]:
    """The patients with the codes of their targets' own style and of the average one."""
    return [replace(patient, styles=(_own_style(patient).weights, average.weights)) for patient in patients]


def _own_style(patient: Patient) -> LinearRegression:
    *sources, target = patient.images
    return style.own_style(sources, target.astype(np.float32), patient.region == 1)


def draw(
    patients: Sequence[Patient],
    size: int,
    crop: tuple[int, int],
    slab: int,
    lesion_share: float,
    rng: np.random.Generator,
    style_dropout: float = 0.0,
) -> Batch:
    """Random slices of random patients, cropped about a random brain (or lesion) voxel.

    style_dropout: share of the slices that are told the average style in place of their own.
    Raises `InputError` where there is no patient to draw from.
    """
    if not patients:
        raise InputError("there is no patient to draw slices from")
    sources, targets, regions, styled = [], [], [], []
    for _ in range(size):
        patient = patients[int(rng.integers(len(patients)))]
        least = 2 if rng.random() < lesion_share else 1
        candidates = patient.slices_with(least)
        if not len(candidates):
            least, candidates = 1, patient.slices_with(1)
        z = int(rng.choice(candidates))
        images, region = _cut(patient, z, _corner(patient.region[z], least, crop, rng), crop, slab)
        sources.append(images[:-1])
        targets.append(images[-1:, slab // 2])
        regions.append(region[None])
        if patient.styles is not None:
            code = patient.styles[int(rng.random() < style_dropout)]
            styled.append(style.told(images[:-1, slab // 2], code, region > 0)[None])
    return Batch(
        torch.from_numpy(np.stack(sources)),
        torch.from_numpy(np.stack(targets)),
        torch.from_numpy(np.stack(regions)),
        torch.ones(size, len(sources[0]), dtype=torch.bool),
        torch.from_numpy(np.stack(styled)) if styled else None,
    )


def _corner(region: np.ndarray, least: int, crop: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """First corner of a crop that holds a random voxel of the region and as much of the slice as it can."""
    voxels = np.argwhere(region >= least)
    corner = []
    for at, want, have in zip(voxels[rng.integers(len(voxels))], crop, region.shape, strict=True):
        slack = have - want
        low, high = sorted((0, slack)) if slack <= 0 else (max(0, int(at) - want + 1), min(slack, int(at)))
        corner.append(int(rng.integers(low, high + 1)))
    return corner[0], corner[1]


def _cut(
    patient: Patient, z: int, corner: tuple[int, int], crop: tuple[int, int], slab: int
) -> tuple[np.ndarray, np.ndarray]:
    """Crop of a slab and of the region map, zero where it reaches beyond the stored box."""
    depth, height, width = patient.region.shape
    images = np.zeros((len(patient.images), slab, *crop), np.float32)
    region = np.zeros(crop, np.uint8)
    z0 = z - slab // 2
    (a0, a1), (x0, x1), (y0, y1) = (
        (max(start, 0), min(start + want, have))
        for start, want, have in ((z0, slab, depth), (corner[0], crop[0], height), (corner[1], crop[1], width))
    )
    to_x, to_y = slice(x0 - corner[0], x1 - corner[0]), slice(y0 - corner[1], y1 - corner[1])
    images[:, a0 - z0 : a1 - z0, to_x, to_y] = patient.images[:, a0:a1, x0:x1, y0:y1]
    region[to_x, to_y] = patient.region[z, x0:x1, y0:y1]
    return images, region


def augmented(batch: Batch, generator: torch.Generator) -> Batch:
    """Flip and warp sources, target, style and region alike; restyle the sources alone."""
    b, s, d, h, w = batch.sources.shape
    told = [] if batch.styled is None else [batch.styled]
    stacked = torch.cat([batch.sources.flatten(1, 2), batch.target, *told, batch.region.float()], 1)
    stacked = augment.flip(stacked, generator)
    grid = augment.affine_grid(b, (h, w), generator)
    images = augment.warp(stacked[:, :-1], grid)
    region = augment.warp(stacked[:, -1:], grid, "nearest").to(batch.region.dtype)
    sources, target, styled = images[:, : s * d].unflatten(1, (s, d)), images[:, s * d, None], images[:, s * d + 1 :]
    return Batch(augment.restyle(sources, generator), target, region, batch.present, styled if told else None)


def withheld(batch: Batch, share: float, kept: int, generator: torch.Generator) -> Batch:
    """Every contrast but number `kept` is absent from a share of the slices, each by itself."""
    there = torch.rand(batch.present.shape, generator=generator) >= share
    there[:, kept] = True
    return replace(batch, present=batch.present & there)
