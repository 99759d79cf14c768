"""A batch of training slices: random crops of random slices, augmented, some without a contrast."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from dsdiff.data import augment
from dsdiff.data.augment import AugmentConfig, Flip
from dsdiff.data.dataset import BRAIN, LESION, Patient, Slab
from dsdiff.errors import InputError
from dsdiff.preprocessing.planes import Plane
from dsdiff.style import regression


@dataclass(frozen=True)
class Batch:
    """Training slices. sources: robust z-scores; region as in `cohort.Slices`; present: see `Condition`.

    styled: the slices in the style that is told, None where none is or the average is to be taken.
    cases: the patient that each slice is of.
    """

    sources: Float[Tensor, "b s d h w"]
    target: Float[Tensor, "b 1 h w"]
    region: Integer[Tensor, "b 1 h w"]
    present: Bool[Tensor, "b s"]
    styled: Float[Tensor, "b 1 h w"] | None = None
    cases: tuple[str, ...] = ()

    def part(self, taken: slice) -> "Batch":
        """Some of the slices, as views: what is page-locked stays so."""
        tensors: dict[str, Any] = {
            name: value[taken] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors, cases=self.cases[taken])

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory, from which a GPU copies while it computes."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **pinned)

    @staticmethod
    def joined(parts: Sequence["Batch"]) -> "Batch":
        """The slices of several batches, all with a style or all without."""
        fields = ("sources", "target", "region", "present")
        whole = {name: torch.cat([getattr(part, name) for part in parts]) for name in fields}
        styled = [part.styled for part in parts if part.styled is not None]
        named = tuple(case for part in parts for case in part.cases)
        return Batch(**whole, styled=torch.cat(styled) if styled else None, cases=named)


def draw(
    patients: Sequence[Patient],
    size: int,
    crop: tuple[int, int],
    slab: int,
    lesion_fraction: float,
    rng: np.random.Generator,
    style_dropout: float = 0.0,
    contrast_dropout: float = 0.0,
    kept: int = 0,
    plane: Plane = "axial",
) -> Batch:
    """Random slices of a plane of random patients, cropped about a random brain (or lesion) voxel.

    style_dropout: share of the slices that are told the style to be expected in place of their own. contrast_dropout:
    share of the slices from which each contrast but number `kept` is absent, from the style that is told as well.
    Raises `InputError` where there is no patient to draw from.
    """
    if not patients:
        raise InputError("there is no patient to draw slices from")
    cut, present, styled, named = [], [], [], []
    for _ in range(size):
        patient = patients[int(rng.integers(len(patients)))]
        least = LESION if rng.random() < lesion_fraction else BRAIN
        candidates = patient.slices_with(least, plane)
        if not len(candidates):
            least, candidates = BRAIN, patient.slices_with(BRAIN, plane)
        whole = patient.slab(int(rng.choice(candidates)), slab, plane)
        one = _cut(whole, _corner(whole.region, least, crop, rng), crop)
        cut.append(one)
        named.append(patient.name)
        there = np.ones(len(one.sources), bool)
        if contrast_dropout:
            there = (rng.random(len(there)) >= contrast_dropout) | (np.arange(len(there)) == kept)
        present.append(there)
        if patient.styles is not None:
            code = patient.styles[int(rng.random() < style_dropout)]
            known = np.where(there[:, None, None], one.sources[:, slab // 2], np.float32(0))
            styled.append(regression.told(known, code, one.region > 0)[None])
    return Batch(
        torch.from_numpy(np.stack([one.sources for one in cut])),
        torch.from_numpy(np.stack([one.target[None] for one in cut])),
        torch.from_numpy(np.stack([one.region[None] for one in cut])),
        torch.from_numpy(np.stack(present)),
        torch.from_numpy(np.stack(styled)) if styled else None,
        tuple(named),
    )


def _corner(
    region: Integer[np.ndarray, "h w"], least: int, crop: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int]:
    """First corner of a crop that holds a random voxel of the region and as much of the slice as it can."""
    voxels = np.argwhere(region >= least)
    corner = []
    for at, want, have in zip(voxels[rng.integers(len(voxels))], crop, region.shape, strict=True):
        slack = have - want
        low, high = sorted((0, slack)) if slack <= 0 else (max(0, int(at) - want + 1), min(slack, int(at)))
        corner.append(int(rng.integers(low, high + 1)))
    return corner[0], corner[1]


def _cut(whole: Slab, corner: tuple[int, int], crop: tuple[int, int]) -> Slab:
    """Crop of a slab, zero where it reaches beyond the stored box."""
    spans = [
        (max(start, 0), min(start + want, have))
        for start, want, have in zip(corner, crop, whole.region.shape, strict=True)
    ]
    (x0, x1), (y0, y1) = spans
    to_x, to_y = slice(x0 - corner[0], x1 - corner[0]), slice(y0 - corner[1], y1 - corner[1])

    def cut(image: np.ndarray) -> np.ndarray:
        out = np.zeros((*image.shape[:-2], *crop), image.dtype)
        out[..., to_x, to_y] = image[..., x0:x1, y0:y1]
        return out

    return Slab(*map(cut, whole))


def augmented(batch: Batch, config: AugmentConfig, generator: torch.Generator, plane: Plane = "axial") -> Batch:
    """Sources, target, style and region moved alike; what scanners change, of the sources alone."""
    if plane == "sagittal":
        batch, config = _flipped(batch, config, generator)
    s, d = batch.sources.shape[1:3]
    told = [] if batch.styled is None else [batch.styled]
    stacked = torch.cat([batch.sources.flatten(1, 2), batch.target, *told], 1)
    images, region = augment.moved(stacked, batch.region.float(), config, generator)
    sources, target, styled = images[:, : s * d].unflatten(1, (s, d)), images[:, s * d, None], images[:, s * d + 1 :]
    return replace(
        batch,
        sources=augment.seen(sources, config, generator),
        target=target,
        region=region.to(batch.region.dtype),
        styled=styled if told else None,
    )


def _flipped(batch: Batch, config: AugmentConfig, generator: torch.Generator) -> tuple[Batch, AugmentConfig]:
    """Sagittal slices flipped: left and right are before and behind them. The rest of the changes is left to do."""
    mirrored = torch.rand(len(batch.sources), generator=generator) < config.flip.probability
    sources = torch.where(mirrored[:, None, None, None, None], batch.sources.flip(2), batch.sources)
    return replace(batch, sources=sources), config.model_copy(update={"flip": Flip(probability=0)})
