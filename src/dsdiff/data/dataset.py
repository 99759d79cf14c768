"""The patients that a training draws slices from, and the slices of one patient, in memory or in a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Integer

from dsdiff.preprocessing.planes import PLANES, Plane, slices_to_plane
from dsdiff.qc.features import Features
from dsdiff.style import regression
from dsdiff.style.regression import LinearRegression, StyleCode, StyleKind

BRAIN, LESION, ENHANCING = 1, 2, 3  # values of a region map; 0 is outside the brain


class SliceStack(NamedTuple):
    """A slice with its neighbors, the context slices.

    Attributes:
        sources: (s, d, h, w) robust z-scores of s source contrasts in d neighboring slices.
        target: (h, w) robust z-scores of the target in the center slice.
        region: (h, w) region map of the center slice, see `Slices`.
    """

    sources: Float[np.ndarray, "s d h w"]
    target: Float[np.ndarray, "h w"]
    region: Integer[np.ndarray, "h w"]


class StyleCodes(NamedTuple):
    """Two style codes of one patient.

    Attributes:
        target: Fitted to the patient's own target.
        expected: Predicted from the sources, without the target.
    """

    target: StyleCode
    expected: StyleCode


@runtime_checkable
class Slices(Protocol):
    """Slices of one case, cut to the brain's bounding box: robust z-scores as float16.

    A region map is 0 outside the brain, else BRAIN, LESION (any part of the tumour) or ENHANCING. It is also 0 in
    those parts of the brain that the target does not cover.
    """

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes that slices can be read along.

        Returns:
            Names of planes, at least one.
        """
        ...

    def max_regions(self, plane: Plane) -> Integer[np.ndarray, " n"]:
        """Return the highest value of the region map in each slice.

        Args:
            plane: The plane of the slices.

        Returns:
            (n,) values for n slices.
        """
        ...

    def read(self, first: int, last: int, center: int, plane: Plane) -> SliceStack:
        """Read neighboring slices.

        Args:
            first: The first slice of the sources.
            last: The slice after the last one of the sources.
            center: The slice of target and region map.
            plane: The plane of the slices.

        Returns:
            The slices, without padding.

        Raises:
            InputError: The file is damaged.
        """
        ...

    def load_all(self) -> tuple[Float[np.ndarray, "c z x y"], Integer[np.ndarray, "z x y"]]:
        """Read all axial slices.

        Returns:
            (c, z, x, y) source contrasts and last the target, and the (z, x, y) region map.

        Raises:
            InputError: The file is damaged.
        """
        ...

    def fit_style(self, kind: StyleKind = "linear") -> LinearRegression:
        """Fit the style of the target.

        Args:
            kind: A kind of `style.regression.KNOTS`.

        Returns:
            The regression of the target on the sources.
        """
        ...


@dataclass(frozen=True)
class InMemorySlices:
    """Slices held in memory.

    Attributes:
        images: (c, z, x, y) float16 source contrasts and last the target.
        region: (z, x, y) region map.
    """

    images: Float[np.ndarray, "c z x y"]
    region: Integer[np.ndarray, "z x y"]
    planes = PLANES

    def max_regions(self, plane: Plane) -> Integer[np.ndarray, " n"]:
        """See `Slices.max_regions`.

        Returns:
            (n,) values for n slices.
        """
        return slices_to_plane(self.region, plane).max((1, 2))

    def read(self, first: int, last: int, center: int, plane: Plane) -> SliceStack:
        """See `Slices.read`.

        Returns:
            The slices, without padding.
        """
        images = slices_to_plane(self.images, plane)
        region = slices_to_plane(self.region, plane)
        return SliceStack(images[:-1, first:last], images[-1, center], region[center])

    def load_all(self) -> tuple[Float[np.ndarray, "c z x y"], Integer[np.ndarray, "z x y"]]:
        """See `Slices.load_all`.

        Returns:
            Images and region map.
        """
        return self.images, self.region

    def fit_style(self, kind: StyleKind = "linear") -> LinearRegression:
        """See `Slices.fit_style`.

        Returns:
            The regression of the target on the sources.
        """
        return fit_target_style(self, kind)


@dataclass(frozen=True)
class TrainingPatient:
    """One case that a training draws slices from.

    Attributes:
        name: Name of the case.
        slices: Its slices.
        max_regions: By plane, the (n,) highest values of the region map in each slice.
        style_change: A style code that is rendered and added to the target. None leaves the target as it is.
        style_codes: Codes for networks that are conditioned on style, None for others.
        features: Features of the sources, by group; see `qc.features.measure_features`.
    """

    name: str
    slices: Slices
    max_regions: dict[Plane, Integer[np.ndarray, " n"]]
    style_change: StyleCode | None = None
    style_codes: StyleCodes | None = None
    features: dict[str, Features] = field(default_factory=dict)

    @staticmethod
    def from_slices(name: str, slices: Slices, features: Mapping[str, Features] | None = None) -> "TrainingPatient":
        """Make a patient whose target is as it was acquired.

        Args:
            name: Name of the case.
            slices: Its slices.
            features: Features of the sources, by group.

        Returns:
            The patient, without style codes.
        """
        max_regions = {plane: slices.max_regions(plane) for plane in slices.planes}
        return TrainingPatient(name, slices, max_regions, features=dict(features or {}))

    def find_slices(self, min_region: int, plane: Plane = "axial") -> Integer[np.ndarray, " m"]:
        """Find the slices that contain a region.

        Args:
            min_region: The lowest value of the region map that counts.
            plane: The plane of the slices.

        Returns:
            (m,) indices of slices with at least one such voxel.
        """
        return np.flatnonzero(self.max_regions[plane] >= min_region)

    def read_stack(self, center: int, depth: int, plane: Plane = "axial") -> SliceStack:
        """Read a slice with its neighbors.

        Args:
            center: Index of the slice.
            depth: Number of slices of the sources, odd. Slices beyond the first and the last one are zero.
            plane: The plane of the slices.

        Returns:
            The slices in float32. `style_change` is added to the target.

        Raises:
            InputError: The file is damaged.
        """
        start = center - depth // 2
        first = max(start, 0)
        last = min(center + depth // 2 + 1, len(self.max_regions[plane]))
        stack = self.slices.read(first, last, center, plane)

        sources = np.zeros((len(stack.sources), depth, *stack.region.shape), np.float32)
        sources[:, first - start : last - start] = stack.sources

        target = stack.target.astype(np.float32)
        if self.style_change is not None:
            target += regression.render_style_np(sources[:, depth // 2], self.style_change, stack.region > 0)

        return SliceStack(sources, target, stack.region)


def fit_target_style(slices: Slices, kind: StyleKind = "linear") -> LinearRegression:
    """Fit the style of a target to all slices of its case.

    Args:
        slices: The slices.
        kind: A kind of `style.regression.KNOTS`.

    Returns:
        The regression of the target on the sources, in brain without tumour.
    """
    (*sources, target), region = slices.load_all()
    return regression.fit_style(sources, target.astype(np.float32), region == BRAIN, kind)
