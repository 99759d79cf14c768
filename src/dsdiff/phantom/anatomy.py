"""Random brains: the ICBM 152 tissue maps, bent into one patient's head.

The maps (white and grey matter, T1; 1 mm; Fonov et al. 2011, NeuroImage 54:313) come with nilearn's wheel and are read
from there without importing nilearn. Arrays are (x, y, z) with x to the left, y to the back, z up (LPS, as in BraTS);
distances in mm.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dsdiff.errors import InputError

TEMPLATE_CENTRE = np.array([98.0, 120.0, 81.5])
"""Centre of mass of the template's brain, in template voxels."""

HEAD_CENTRE = np.array([118.5, 135.0, 75.5])
"""Where BraTS has the brain's centre of mass on its 240 x 240 x 155 grid (mean of real cases)."""

Axes = Sequence[np.ndarray]
"""The coordinates along x, y and z at which a field on a regular grid is wanted."""


@dataclass(frozen=True)
class Template:
    """The ICBM brain, all maps (197, 233, 189) float32.

    white, grey: tissue fractions; depth: mm below the brain's surface, negative outside.
    """

    white: np.ndarray
    grey: np.ndarray
    depth: np.ndarray


def millimetres(points: np.ndarray) -> np.ndarray:
    """Points (n, 3) in MNI millimetres (x right, y front, z up) as template voxels."""
    return np.asarray([98.0, 98.0, 72.0]) + np.asarray(points, float) * [-1, -1, 1]


def template_folder() -> Path:
    """Where nilearn keeps the maps. Raises InputError when nilearn is absent."""
    found = importlib.util.find_spec("nilearn")
    if found is None or not found.submodule_search_locations:
        raise InputError("the phantom needs the ICBM tissue maps of nilearn: pip install 'dsdiff-mri[phantom]'")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data"


@lru_cache(maxsize=1)
def template() -> Template:
    """The ICBM maps, turned to LPS."""
    t1, grey, white = (_read_map(name) for name in ("t1", "gm", "wm"))
    opened = ndimage.binary_opening(t1 > 0, iterations=2)  # cuts off bits of eye muscle
    parts, _ = ndimage.label(opened)
    brain = np.pad(parts == np.bincount(parts[parts > 0]).argmax(), 8)
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(brain, iterations=4))[8:-8, 8:-8, 8:-8]
    # The brain stem runs on below the map: without this its cut would count as surface.
    inside = ndimage.distance_transform_edt(np.pad(brain, ((1, 1), (1, 1), (30, 1)), mode="edge"))[1:-1, 1:-1, 30:-1]
    outside = ndimage.distance_transform_edt(~brain)
    depth = np.where(brain, inside - 0.5, 0.5 - outside).astype(np.float32)
    return Template(white * brain, grey * brain, depth)


def _read_map(name: str) -> np.ndarray:
    path = template_folder() / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise InputError(f"nilearn has no {path.name} in {path.parent}: pip install 'dsdiff-mri[phantom]'")
    stored = np.asanyarray(nib.load(path).dataobj)  # type: ignore[attr-defined]
    return stored[::-1, ::-1].astype(np.float32) / 255


def smooth_field(rng: np.random.Generator, extent: Sequence[int], knot_mm: float) -> Callable[[Axes], np.ndarray]:
    """A random smooth function on a box of `extent` voxels with about unit variance and features `knot_mm` wide.

    Returns a function of the axes at which to evaluate it; a uniform cubic B-spline, so it is cheap and has no kinks.
    """
    control = rng.normal(size=tuple(int(np.ceil(n / knot_mm)) + 4 for n in extent)).astype(np.float32)

    def evaluate(axes: Axes) -> np.ndarray:
        values = control
        for axis, points in enumerate(axes):
            basis = _spline_basis(points / knot_mm, control.shape[axis])  # (points, knots)
            values = np.moveaxis(np.tensordot(basis, values, axes=(1, axis)), 0, axis)
        return values / 0.479**1.5  # 0.479: mean over a knot interval of the sum of squared B-spline weights

    return evaluate


def _spline_basis(points: np.ndarray, knots: int) -> np.ndarray:
    """Weights (points, knots) of the uniform cubic B-spline."""
    distance = np.abs(points[:, None] + 1.5 - np.arange(knots)[None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clip(0) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def noise(rng: np.random.Generator, shape: Sequence[int], knot_mm: float) -> np.ndarray:
    """`smooth_field` on its own grid: (x, y, z) float32, about zero mean and unit variance."""
    return smooth_field(rng, shape, knot_mm)([np.arange(n, dtype=np.float32) for n in shape])


@dataclass(frozen=True)
class Head:
    """One random head: where each of its points comes from in the template, and how sharp its folds are."""

    matrix: np.ndarray  # (3, 3), patient mm to template voxels
    bends: list[tuple[float, list[Callable[[Axes], np.ndarray]]]]  # amplitude in mm, and one field per axis
    origin: np.ndarray  # (3,) first voxel of the simulated window on the 240 x 240 x 155 grid
    sharpness: float
    sulci: float
    whiteness: float
    parameters: dict

    def where(self, axes: Axes) -> np.ndarray:
        """Template coordinates (3, x, y, z) of the patient's grid points at `axes`."""
        grid = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        offset = (self.origin - HEAD_CENTRE)[:, None, None, None].astype(np.float32)
        found = np.tensordot(self.matrix.astype(np.float32), grid + offset, axes=1)
        for axis in range(3):
            found[axis] += np.float32(TEMPLATE_CENTRE[axis])
            for amplitude, fields in self.bends:
                found[axis] += np.float32(amplitude) * fields[axis](axes)
        return found

    def push(self, axes: Axes, centre: np.ndarray, reach_mm: float, strength: float, taper: np.ndarray) -> np.ndarray:
        """What to add to `where` so that tissue is pushed out of a ball around `centre` (patient voxels).

        A point at distance d shows what was at d (1 - strength exp(-(d/reach)^2)); monotonic for strength in (-0.4, 1).
        `taper` (x, y, z) in 0..1 holds the skull in place. Negative strength draws tissue in.
        """
        grid = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
        away = grid - np.asarray(centre, np.float32)[:, None, None, None]
        pull = strength * np.exp(-(away**2).sum(0) / np.float32(reach_mm) ** 2) * taper
        return -np.tensordot(self.matrix.astype(np.float32), away * pull, axes=1)


def draw_head(rng: np.random.Generator, shape: Sequence[int], origin: np.ndarray) -> Head:
    """A random head on a grid of `shape` voxels whose first voxel is `origin` on the full grid."""
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
    bends = [
        (amplitude, [smooth_field(rng, shape, knot) for _ in range(3)])
        for knot, amplitude in (
            (45.0, rng.uniform(2.0, 4.5)),
            (18.0, rng.uniform(1.0, 1.8)),
            (9.0, rng.uniform(0.5, 0.9)),
        )
    ]
    sharpness, sulci = float(rng.uniform(1.8, 2.6)), float(rng.normal(0.6, 0.4))
    whiteness = float(rng.uniform(1.05, 1.35))
    parameters = {
        "scale": scale.tolist(),
        "rotation_deg": np.rad2deg(angles).tolist(),
        "shear": shear.tolist(),
        "mirrored": mirrored,
        "bend_mm": [float(amplitude) for amplitude, _ in bends],
        "sharpness": sharpness,
        "sulci": sulci,
        "whiteness": whiteness,
    }
    return Head(matrix, bends, origin, sharpness, sulci, whiteness, parameters)


def sample(map_: np.ndarray, where: np.ndarray, outside: float = 0.0) -> np.ndarray:
    """`map_` at template coordinates `where`, linearly interpolated."""
    return ndimage.map_coordinates(map_, where, order=1, cval=outside).astype(np.float32, copy=False)


def healthy_tissue(head: Head, where: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fractions of white, grey and csf, sharpened from the blurred group average to one patient's folds, and the depth.

    The average's fractions are raised to a power and CSF is given random weight, so that sulci differ between patients.
    """
    maps = template()
    depth = sample(maps.depth, where, outside=-20.0)
    white, grey = sample(maps.white, where), sample(maps.grey, where)
    csf = (1 - white - grey).clip(0, 1)
    white, grey = (head.whiteness * white) ** head.sharpness, grey**head.sharpness
    sheet, near = _extra_sulci(depth, where, rng)
    white, grey = white * (1 - near), grey + white * near
    csf = csf**head.sharpness * np.exp(head.sulci + 0.6 * noise(rng, depth.shape, 4.0)) + np.exp(head.sulci) * sheet
    total = (white + grey + csf).clip(1e-3)
    space = ((depth + 3.5) / 1.5).clip(0, 1)  # beyond the subarachnoid space lies bone, which has no signal
    return {"white": white / total, "grey": grey / total, "csf": csf / total * space, "depth": depth}


def _extra_sulci(depth: np.ndarray, where: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Folds that the group average has blurred away: CSF in thin sheets and the cortex along them, both 0..1.

    A plane wave whose phase wanders at random is zero on sheets that meander through space as sulci do.
    """
    wavelength, direction = 26.0, rng.normal(size=3) * [1, 1, 0.4]
    wave = np.tensordot(direction / np.linalg.norm(direction), where, axes=1) * (2 * np.pi / wavelength)
    distance = np.abs(np.sin(wave + 2.2 * noise(rng, depth.shape, 15.0))) * (0.7 * wavelength / (2 * np.pi))  # about mm
    bottom = 9.0 + 5.0 * noise(rng, depth.shape, 16.0)
    cerebrum = ((where[2] - 45 + 0.35 * (98 + 30 - where[1])) / 8).clip(0, 1)  # above the cerebellum and the brain stem
    cortical = cerebrum / (1 + np.exp(((depth - bottom) / 1.5).clip(-30, 30)))
    return np.exp(-((distance / 0.9) ** 2)) * cortical, 1 / (
        1 + np.exp(((distance - 2.6) / 0.4).clip(-30, 30))
    ) * cortical


# The large vessels: radius in mm and a polyline in MNI millimetres (x right, y front, z up); paired ones are mirrored.
SINUSES = {
    "superior sagittal": (3.0, [(0, 62, 26), (0, 49, 49), (0, 35, 58), (0, 11, 70), (0, -13, 75), (0, -37, 76),
                                (0, -61, 66), (0, -85, 41), (0, -98, 17), (0, -99, -2), (0, -94, -14)]),
    "straight": (1.8, [(0, -40, 5), (0, -55, 4), (0, -75, -6), (0, -92, -14)]),
    "internal cerebral": (1.0, [(0, -12, 14), (0, -25, 13), (0, -40, 6)]),
    "basilar": (1.5, [(2, -28, -56), (0, -19, -46), (0, -14, -34), (0, -14, -20)]),
}  # fmt: skip
PAIRED_VESSELS = {
    "transverse sinus": (2.6, [(0, -94, -14), (25, -90, -20), (45, -76, -25), (56, -60, -30), (52, -46, -38),
                               (42, -42, -50)]),
    "carotid": (2.0, [(12, 8, -26), (9, 3, -20)]),
    "middle cerebral": (1.4, [(9, 3, -20), (24, 2, -20), (36, 2, -14), (42, -6, -4), (44, -18, 6), (47, -30, 14)]),
    "anterior cerebral": (1.1, [(9, 3, -20), (2, 12, -18), (2, 30, -8), (2, 37, 8), (2, 28, 26), (2, 5, 36),
                               (2, -20, 37)]),
    "posterior cerebral": (1.1, [(0, -14, -20), (14, -16, -18), (20, -30, -10), (16, -48, -2), (10, -70, 4)]),
    "basal vein": (0.9, [(12, 0, -18), (18, -20, -12), (12, -34, -2), (0, -42, 5)]),
    "thalamostriate vein": (0.8, [(3, -4, 15), (10, -8, 20), (16, 4, 21), (17, 16, 17)]),
}  # fmt: skip
PLEXUS = (2.0, [(8, -8, 17), (12, -20, 16), (18, -32, 12), (24, -38, 6), (27, -36, -2), (29, -28, -10)])


def agent_sites(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fractions of vessel, plexus and dura (falx) on the template's grid, drawn anew for every patient."""
    maps = template()
    csf = (1 - maps.white - maps.grey) * (maps.depth > -3)
    vessel, plexus = np.zeros_like(csf), np.zeros_like(csf)
    for radius, line in SINUSES.values():
        _paint_tube(vessel, millimetres(_wander(np.array(line), 1.0, rng)), radius * rng.uniform(0.8, 1.4))
    for side in (-1, 1):
        for radius, line in PAIRED_VESSELS.values():
            _paint_tube(
                vessel, millimetres(_wander(np.multiply(line, [side, 1, 1]), 2.5, rng)), radius * rng.uniform(0.5, 1.2)
            )
        radius, line = PLEXUS
        _paint_tube(
            plexus, millimetres(_wander(np.multiply(line, [side, 1, 1]), 1.0, rng)), radius * rng.uniform(0.7, 1.6)
        )
    for path in _cortical_paths(csf, maps.depth, int(rng.integers(450, 1000)), rng):
        _paint_tube(vessel, path, float(rng.uniform(0.5, 1.4)))
    return {"vessel": vessel, "plexus": plexus * (csf > 0.3), "dura": _dura(csf)}


def _wander(line: np.ndarray, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """A polyline (n, 3), every inner corner moved at random, resampled to steps of about 0.7 mm."""
    corners = np.asarray(line, float).copy()
    corners[1:-1] += rng.normal(0, amplitude, corners[1:-1].shape) * (np.abs(corners[1:-1]) > 0)  # the midline stays
    along = np.concatenate([[0], np.linalg.norm(np.diff(corners, axis=0), axis=1).cumsum()])
    steps = np.arange(0, along[-1], 0.7)
    return np.stack([np.interp(steps, along, corners[:, axis]) for axis in range(3)], axis=1)


def _paint_tube(map_: np.ndarray, path: np.ndarray, radius: float) -> None:
    """Adds balls of `radius` mm along `path` (n, 3 voxels) to `map_`, with edges one voxel soft."""
    reach = int(np.ceil(radius + 1))
    cube = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"))
    for point in path:
        nearest = np.round(point).astype(int)
        if (nearest < reach).any() or (nearest + reach >= map_.shape).any():
            continue
        distance = np.sqrt(((cube - (point - nearest)[:, None, None, None]) ** 2).sum(0))
        window = map_[tuple(slice(n - reach, n + reach + 1) for n in nearest)]
        np.maximum(window, (radius + 0.5 - distance).clip(0, min(1.0, (2 * radius) ** 2)), out=window)


def _cortical_paths(csf: np.ndarray, depth: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random walks (voxels) of small vessels that keep to the CSF of sulci and of the brain's surface."""
    starts = np.argwhere((csf > 0.4) & (depth > -1) & (depth < 12))
    at = rng.choice(starts, count).astype(float)
    heading = rng.normal(size=(count, 3))
    paths, lengths = [at], rng.integers(12, 60, count)
    for _ in range(int(lengths.max()) - 1):
        turned = heading[:, None] + rng.normal(0, 0.45, (count, 8, 3))
        turned /= np.linalg.norm(turned, axis=-1, keepdims=True)
        ahead = at[:, None] + 1.6 * turned  # (count, 8, 3)
        index = tuple(np.moveaxis(ahead.round().astype(int), -1, 0).clip(0, np.array(csf.shape)[:, None, None] - 1))
        best = (csf[index] - 0.1 * np.abs(depth[index] - 1).clip(0, 8)).argmax(1)
        heading = turned[np.arange(count), best]
        at = at + 0.8 * heading
        paths.append(at)
    return [np.stack(paths)[: lengths[n], n] for n in range(count)]


def _dura(csf: np.ndarray) -> np.ndarray:
    """The sheets of dura between the hemispheres and above the cerebellum, on the template's grid."""
    x, y, z = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in csf.shape], indexing="ij", sparse=True)
    sheet = (1.2 - np.abs(x - TEMPLATE_CENTRE[0])).clip(0, 1) * 0.6
    callosum = ((98 - y + 10) / 58) ** 2 + ((z - 72 - 5) / 36) ** 2
    falx = sheet * (callosum > 1) * (z > 72 - 5)
    # The tentorium falls from the straight sinus to the transverse sinuses; where CSF parts cerebellum and cerebrum.
    middle, aside = 72 + 5 - 0.37 * (y - 138), np.abs(x - TEMPLATE_CENTRE[0]) / 52
    height = middle + (72 - 27 - middle) * aside**1.4
    tentorium = (2.6 - np.abs(z - height)).clip(0, 1) * 0.6 * (y > 136) * (y < 188) * (aside < 1)
    return np.asarray(np.maximum(falx, tentorium) * (csf > 0.15), np.float32)
