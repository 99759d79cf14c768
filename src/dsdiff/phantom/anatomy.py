"""Random brains: the ICBM 152 tissue maps, deformed into the head of one patient.

The maps (white and gray matter, T1; 1 mm; Fonov et al. 2011, NeuroImage 54:313) come with the nilearn wheel. They are
read from there without an import of nilearn. Arrays are (x, y, z) with x to the left, y to the back, z up (LPS, as in
BraTS). Distances are in mm.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dsdiff.errors import InputError
from dsdiff.phantom.random_fields import Axes, SmoothField, sample_noise_volume, sample_smooth_field

TEMPLATE_CENTER = np.array([98.0, 120.0, 81.5])
"""Center of mass of the template's brain, in template voxels."""

HEAD_CENTER = np.array([118.5, 135.0, 75.5])
"""Center of mass of the brain on the 240 x 240 x 155 grid of BraTS (mean of real cases)."""

MNI_ORIGIN = np.array([98.0, 98.0, 72.0])
"""Template voxel of the origin of MNI space."""


@dataclass(frozen=True)
class Template:
    """The ICBM brain. All maps are (197, 233, 189) float32.

    Attributes:
        white: Fraction of white matter.
        gray: Fraction of gray matter.
        depth: Depth below the surface of the brain in mm, negative outside.
    """

    white: np.ndarray
    gray: np.ndarray
    depth: np.ndarray


def mni_to_voxels(points: np.ndarray) -> np.ndarray:
    """Convert MNI coordinates to template voxels.

    Args:
        points: (n, 3) in mm, x to the right, y to the front, z up.

    Returns:
        (n, 3) template voxels.
    """
    return MNI_ORIGIN + np.asarray(points, float) * [-1, -1, 1]


def find_template_folder() -> Path:
    """Find the folder in which nilearn has the maps.

    Returns:
        The folder.

    Raises:
        InputError: nilearn is not installed.
    """
    package_spec = importlib.util.find_spec("nilearn")
    if package_spec is None or not package_spec.submodule_search_locations:
        raise InputError("the phantom needs the ICBM tissue maps of nilearn: pip install 'dsdiff-mri[phantom]'")
    return Path(package_spec.submodule_search_locations[0]) / "datasets" / "data"


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the ICBM maps and turn them to LPS.

    Returns:
        The template, cached.

    Raises:
        InputError: nilearn is not installed, or lacks a map.
    """
    t1, gray, white = (_read_map(name) for name in ("t1", "gm", "wm"))

    opened = ndimage.binary_opening(t1 > 0, iterations=2)  # cuts off bits of eye muscle
    brain = np.pad(largest_component(opened), 8)
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(brain, iterations=4))[8:-8, 8:-8, 8:-8]

    # The brain stem continues below the map: without the padding, its cut would count as surface.
    inside = ndimage.distance_transform_edt(np.pad(brain, ((1, 1), (1, 1), (30, 1)), mode="edge"))[1:-1, 1:-1, 30:-1]
    outside = ndimage.distance_transform_edt(~brain)
    depth = np.where(brain, inside - 0.5, 0.5 - outside).astype(np.float32)
    return Template(white * brain, gray * brain, depth)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Keep the largest connected component of a mask.

    Args:
        mask: (x, y, z) bool, not empty.

    Returns:
        (x, y, z) bool.
    """
    labels, _ = ndimage.label(mask)
    return np.asarray(labels == np.bincount(labels[mask]).argmax())


def _read_map(name: str) -> np.ndarray:
    path = find_template_folder() / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise InputError(f"nilearn has no {path.name} in {path.parent}: pip install 'dsdiff-mri[phantom]'")
    voxels = np.asanyarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
    return voxels[::-1, ::-1].astype(np.float32) / 255


@dataclass(frozen=True)
class Bend:
    """One smooth deformation of a head.

    Attributes:
        amplitude_mm: Standard deviation of the displacement.
        fields: One field with unit variance per axis.
    """

    amplitude_mm: float
    fields: list[SmoothField]


@dataclass(frozen=True)
class Head:
    """One random head.

    Attributes:
        matrix: (3, 3), patient mm to template voxels.
        bends: Smooth deformations, from coarse to fine.
        origin: (3,) first voxel of the simulated window on the 240 x 240 x 155 grid.
        sharpness: Exponent that sharpens the tissue fractions.
        sulci: Logarithm of the weight of CSF: the width of the sulci.
        whiteness: Factor of the white matter.
        parameters: All values that were sampled, ready for JSON.
    """

    matrix: np.ndarray
    bends: list[Bend]
    origin: np.ndarray
    sharpness: float
    sulci: float
    whiteness: float
    parameters: dict

    def template_coordinates(self, axes: Axes) -> np.ndarray:
        """Map the points of a grid of the patient to the template.

        Args:
            axes: Coordinates of the grid in patient voxels.

        Returns:
            (3, x, y, z) template voxels.
        """
        grid = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        offset = (self.origin - HEAD_CENTER)[:, None, None, None].astype(np.float32)
        coordinates = np.tensordot(self.matrix.astype(np.float32), grid + offset, axes=1)
        for axis in range(3):
            coordinates[axis] += np.float32(TEMPLATE_CENTER[axis])
            for bend in self.bends:
                coordinates[axis] += np.float32(bend.amplitude_mm) * bend.fields[axis](axes)
        return coordinates

    def push_displacement(
        self, axes: Axes, center: np.ndarray, reach_mm: float, strength: float, taper: np.ndarray
    ) -> np.ndarray:
        """Compute a displacement of `template_coordinates` that pushes tissue out of a ball.

        A point at distance d shows the tissue from distance d (1 - strength exp(-(d/reach)^2)).

        Args:
            axes: Coordinates of the grid in patient voxels.
            center: Center of the ball in patient voxels.
            reach_mm: Radius at which the push has faded to 1/e.
            strength: In (-0.4, 1), where the map is monotonic. A negative strength pulls tissue in.
            taper: (x, y, z) in 0..1, 0 where tissue must not move, as at the skull.

        Returns:
            (3, x, y, z) to be added to the template coordinates.
        """
        grid = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        offset = grid - np.asarray(center, np.float32)[:, None, None, None]
        pull = strength * np.exp(-(offset**2).sum(0) / np.float32(reach_mm) ** 2) * taper
        return -np.tensordot(self.matrix.astype(np.float32), offset * pull, axes=1)


def sample_head(rng: np.random.Generator, shape: Sequence[int], origin: np.ndarray) -> Head:
    """Sample a random head.

    Args:
        rng: Random generator.
        shape: Size of the simulated window in voxels.
        origin: First voxel of the window on the 240 x 240 x 155 grid.

    Returns:
        The head.
    """
    scale = rng.uniform(0.90, 0.97) * rng.uniform(0.97, 1.03, 3)
    angles = np.deg2rad(rng.normal(0, [3, 2, 3]).clip(-7, 7))
    shear = rng.normal(0, 0.02, 3)
    mirrored = bool(rng.random() < 0.5)
    matrix = (
        np.diag(1 / scale)
        @ Rotation.from_euler("xyz", angles).as_matrix()
        @ (np.eye(3) + np.triu(np.ones((3, 3)), 1) * shear[None])
    )
    matrix[0] *= -1 if mirrored else 1

    knots_mm = (45.0, 18.0, 9.0)
    amplitudes_mm = (rng.uniform(2.0, 4.5), rng.uniform(1.0, 1.8), rng.uniform(0.5, 0.9))
    bends = []
    for knot_mm, amplitude_mm in zip(knots_mm, amplitudes_mm, strict=True):
        bends.append(Bend(amplitude_mm, [sample_smooth_field(rng, shape, knot_mm) for _ in range(3)]))

    sharpness = float(rng.uniform(1.8, 2.6))
    sulci = float(rng.normal(0.6, 0.4))
    whiteness = float(rng.uniform(1.05, 1.35))
    parameters = {
        "scale": scale.tolist(),
        "rotation_deg": np.rad2deg(angles).tolist(),
        "shear": shear.tolist(),
        "mirrored": mirrored,
        "bend_mm": [float(bend.amplitude_mm) for bend in bends],
        "sharpness": sharpness,
        "sulci": sulci,
        "whiteness": whiteness,
    }
    return Head(matrix, bends, origin, sharpness, sulci, whiteness, parameters)


def interpolate(template_map: np.ndarray, coordinates: np.ndarray, outside: float = 0.0) -> np.ndarray:
    """Interpolate a template map linearly.

    Args:
        template_map: A map on the grid of the template.
        coordinates: (3, x, y, z) template voxels.
        outside: Value outside the map.

    Returns:
        (x, y, z) float32.
    """
    return ndimage.map_coordinates(template_map, coordinates, order=1, cval=outside).astype(np.float32, copy=False)


def sample_healthy_tissue(head: Head, coordinates: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Sample the healthy tissue of one patient from the blurred group average.

    The fractions of the average are raised to a power, which sharpens the folds. CSF gets a random weight, so that
    sulci differ between patients.

    Args:
        head: The head.
        coordinates: (3, x, y, z) template voxels of the patient's grid.
        rng: Random generator.

    Returns:
        "white", "gray" and "csf" as fractions (x, y, z), and "depth" in mm below the surface of the brain.
    """
    template = load_template()
    depth = interpolate(template.depth, coordinates, outside=-20.0)
    white = interpolate(template.white, coordinates)
    gray = interpolate(template.gray, coordinates)
    csf = (1 - white - gray).clip(0, 1)

    white = (head.whiteness * white) ** head.sharpness
    gray = gray**head.sharpness
    sheet, cortex = _sample_extra_sulci(depth, coordinates, rng)
    white, gray = white * (1 - cortex), gray + white * cortex
    csf_weight = np.exp(head.sulci + 0.6 * sample_noise_volume(rng, depth.shape, 4.0))
    csf = csf**head.sharpness * csf_weight + np.exp(head.sulci) * sheet

    total = (white + gray + csf).clip(1e-3)
    space = ((depth + 3.5) / 1.5).clip(0, 1)  # bone lies beyond the subarachnoid space and has no signal
    return {"white": white / total, "gray": gray / total, "csf": csf / total * space, "depth": depth}


def _sample_extra_sulci(
    depth: np.ndarray, coordinates: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sample folds that the group average has blurred: thin sheets of CSF, and the cortex along them, both 0..1.

    A plane wave whose phase wanders at random is zero on sheets that meander through space as sulci do.
    """
    wavelength = 26.0
    direction = rng.normal(size=3) * [1, 1, 0.4]
    wave = np.tensordot(direction / np.linalg.norm(direction), coordinates, axes=1) * (2 * np.pi / wavelength)
    phase = 2.2 * sample_noise_volume(rng, depth.shape, 15.0)
    distance = np.abs(np.sin(wave + phase)) * (0.7 * wavelength / (2 * np.pi))  # about mm

    bottom = 9.0 + 5.0 * sample_noise_volume(rng, depth.shape, 16.0)
    above_stem = coordinates[2] - 45 + 0.35 * (98 + 30 - coordinates[1])  # above the cerebellum and the brain stem
    cerebrum = (above_stem / 8).clip(0, 1)
    cortical = cerebrum / (1 + np.exp(((depth - bottom) / 1.5).clip(-30, 30)))

    sheet = np.exp(-((distance / 0.9) ** 2)) * cortical
    cortex = 1 / (1 + np.exp(((distance - 2.6) / 0.4).clip(-30, 30))) * cortical
    return sheet, cortex
