"""One case of a store as an HDF5 file of compressed and checksummed slices.

A file holds every contrast and the region map in the brain's bounding box, once for each plane that slices are read
along. One chunk is one slice, so that a slice is read without the others. The file is opened for each read and closed
again: there is no open handle that a fork or a thread could share, and no memory that grows with the cohort.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float, Integer

from dsdiff.data import dataset
from dsdiff.data.dataset import SliceStack
from dsdiff.data.preparation import CroppedCase
from dsdiff.errors import InputError
from dsdiff.preprocessing.planes import Plane, slices_to_plane
from dsdiff.style.regression import LinearRegression, StyleKind
from dsdiff.system.atomic import atomic_file

REGION_NAME = "region"


@dataclass(frozen=True)
class HDF5Slices:
    """Slices of one case that are read from its file; see `dataset.Slices`.

    Attributes:
        path: The file.
        contrasts: Source contrasts to read, in this order.
        target: The target contrast.
        max_region_digits: By plane, the highest value of the region map in each slice, one digit a slice.
        style_equations: By kind, "gram" and "moment" of the regression of the target on these sources, if known.
    """

    path: Path
    contrasts: tuple[str, ...]
    target: str
    max_region_digits: Mapping[Plane, str]
    style_equations: Mapping[StyleKind, dict[str, list]]

    @property
    def planes(self) -> tuple[Plane, ...]:
        """See `dataset.Slices.planes`.

        Returns:
            The planes that the file was written for.
        """
        return tuple(self.max_region_digits)

    def max_regions(self, plane: Plane) -> Integer[np.ndarray, " n"]:
        """See `dataset.Slices.max_regions`.

        Returns:
            (n,) values for n slices.
        """
        return np.frombuffer(self.max_region_digits[plane].encode(), np.uint8) - ord("0")

    def read(self, first: int, last: int, center: int, plane: Plane) -> SliceStack:
        """See `dataset.Slices.read`.

        Returns:
            The slices, without padding.

        Raises:
            InputError: The file is damaged.
        """
        index: dict[str, slice | int] = dict.fromkeys(self.contrasts, slice(first, last))
        index |= {self.target: center, REGION_NAME: center}
        arrays = read_arrays(self.path, index, plane)
        sources = np.stack([arrays[name] for name in self.contrasts])
        return SliceStack(sources, arrays[self.target], arrays[REGION_NAME])

    def load_all(self) -> tuple[Float[np.ndarray, "c z x y"], Integer[np.ndarray, "z x y"]]:
        """See `dataset.Slices.load_all`.

        Returns:
            Images and region map.

        Raises:
            InputError: The file is damaged.
        """
        contrasts = (*self.contrasts, self.target)
        plane = self.planes[0]
        arrays = read_arrays(self.path, dict.fromkeys((*contrasts, REGION_NAME), slice(None)), plane)
        images = np.stack([slices_to_plane(arrays[name], plane) for name in contrasts])  # the same swap goes back
        return images, slices_to_plane(arrays[REGION_NAME], plane)

    def fit_style(self, kind: StyleKind = "linear") -> LinearRegression:
        """See `dataset.Slices.fit_style`.

        Returns:
            The regression that the store kept, else a new one.
        """
        equations = self.style_equations.get(kind)
        if equations is None:
            return dataset.fit_target_style(self, kind)
        return LinearRegression.from_equations(np.array(equations["gram"]), np.array(equations["moment"]), kind)


def write_case(case: CroppedCase, path: Path, planes: Sequence[Plane] = ("axial",)) -> None:
    """Write the file of a case. The file appears only when it is complete.

    Args:
        case: The case.
        path: The file.
        planes: Planes that slices will be read along. Each takes as much space.

    Raises:
        OutputError: The file cannot be written.
    """
    arrays = case.images | {REGION_NAME: case.region}
    with atomic_file(path) as tmp_path, h5py.File(tmp_path, "w") as file:
        for plane in planes:
            for name, axial_slices in arrays.items():
                slices = slices_to_plane(axial_slices, plane)
                dataset_of_slices = file.create_dataset(
                    f"{plane}/{name}",
                    data=slices,
                    chunks=(1, *slices.shape[1:]),
                    compression="gzip",
                    compression_opts=1,
                    shuffle=True,
                    fletcher32=True,
                )
                if name in case.scales:
                    dataset_of_slices.attrs.update(asdict(case.scales[name]))


def read_arrays(path: Path, index: Mapping[str, slice | int], plane: Plane = "axial") -> dict[str, np.ndarray]:
    """Read slices of some arrays of a case's file.

    Args:
        path: The file.
        index: By array (a contrast or `REGION_NAME`), the slices to read.
        plane: The plane of the slices.

    Returns:
        By array, the slices: (n, h, w), or (h, w) for a single one.

    Raises:
        InputError: The file is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            return {name: file[f"{plane}/{name}"][slices] for name, slices in index.items()}
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"{path} is damaged ({error}); run dsdiff prepare again, which makes it anew") from error
