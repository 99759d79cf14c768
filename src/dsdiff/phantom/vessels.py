"""Healthy sites that take up contrast agent: vessels, choroid plexus and dura."""

import numpy as np

from dsdiff.phantom.anatomy import TEMPLATE_CENTER, load_template, mni_to_voxels

MIDLINE_VESSELS = {
    "superior sagittal": (3.0, [(0, 62, 26), (0, 49, 49), (0, 35, 58), (0, 11, 70), (0, -13, 75), (0, -37, 76),
                                (0, -61, 66), (0, -85, 41), (0, -98, 17), (0, -99, -2), (0, -94, -14)]),
    "straight": (1.8, [(0, -40, 5), (0, -55, 4), (0, -75, -6), (0, -92, -14)]),
    "internal cerebral": (1.0, [(0, -12, 14), (0, -25, 13), (0, -40, 6)]),
    "basilar": (1.5, [(2, -28, -56), (0, -19, -46), (0, -14, -34), (0, -14, -20)]),
}  # fmt: skip
"""Large vessels of the midline: radius in mm, and a polyline in MNI mm (x to the right, y to the front, z up)."""

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
"""Vessels of one side, mirrored for the other side; as `MIDLINE_VESSELS`."""

PLEXUS = (2.0, [(8, -8, 17), (12, -20, 16), (18, -32, 12), (24, -38, 6), (27, -36, -2), (29, -28, -10)])
"""Choroid plexus of one side; as `MIDLINE_VESSELS`."""


def sample_agent_sites(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Sample the healthy sites of one patient that take up contrast agent.

    Args:
        rng: Random generator.

    Returns:
        Fractions of "vessel", "plexus" and "dura" on the grid of the template.
    """
    template = load_template()
    csf = (1 - template.white - template.gray) * (template.depth > -3)
    vessel, plexus = np.zeros_like(csf), np.zeros_like(csf)

    for radius, line in MIDLINE_VESSELS.values():
        path = mni_to_voxels(_jitter_polyline(np.array(line), 1.0, rng))
        _paint_tube(vessel, path, radius * rng.uniform(0.8, 1.4))

    for side in (-1, 1):
        for radius, line in PAIRED_VESSELS.values():
            path = mni_to_voxels(_jitter_polyline(np.multiply(line, [side, 1, 1]), 2.5, rng))
            _paint_tube(vessel, path, radius * rng.uniform(0.5, 1.2))
        radius, line = PLEXUS
        path = mni_to_voxels(_jitter_polyline(np.multiply(line, [side, 1, 1]), 1.0, rng))
        _paint_tube(plexus, path, radius * rng.uniform(0.7, 1.6))

    for path in _sample_cortical_paths(csf, template.depth, int(rng.integers(450, 1000)), rng):
        _paint_tube(vessel, path, float(rng.uniform(0.5, 1.4)))
    return {"vessel": vessel, "plexus": plexus * (csf > 0.3), "dura": _dura_fraction(csf)}


def _jitter_polyline(line: np.ndarray, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """Move every inner corner of a polyline (n, 3) at random, and resample it to steps of about 0.7 mm."""
    corners = np.asarray(line, float).copy()
    corners[1:-1] += rng.normal(0, amplitude, corners[1:-1].shape) * (np.abs(corners[1:-1]) > 0)  # the midline stays

    arc_length = np.concatenate([[0], np.linalg.norm(np.diff(corners, axis=0), axis=1).cumsum()])
    steps = np.arange(0, arc_length[-1], 0.7)
    return np.stack([np.interp(steps, arc_length, corners[:, axis]) for axis in range(3)], axis=1)


def _paint_tube(fraction: np.ndarray, path: np.ndarray, radius: float) -> None:
    """Add balls of `radius` mm along `path` (n, 3 voxels) to a map, with edges one voxel soft."""
    reach = int(np.ceil(radius + 1))
    cube = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"))
    for point in path:
        nearest = np.round(point).astype(int)
        if (nearest < reach).any() or (nearest + reach >= fraction.shape).any():
            continue
        distance = np.sqrt(((cube - (point - nearest)[:, None, None, None]) ** 2).sum(0))
        window = fraction[tuple(slice(n - reach, n + reach + 1) for n in nearest)]
        np.maximum(window, (radius + 0.5 - distance).clip(0, min(1.0, (2 * radius) ** 2)), out=window)


def _sample_cortical_paths(
    csf: np.ndarray, depth: np.ndarray, count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Sample random walks (voxels) of small vessels that stay in the CSF of sulci and of the surface of the brain."""
    starts = np.argwhere((csf > 0.4) & (depth > -1) & (depth < 12))
    positions = rng.choice(starts, count).astype(float)
    heading = rng.normal(size=(count, 3))
    lengths = rng.integers(12, 60, count)
    paths = [positions]
    last_voxel = np.array(csf.shape)[:, None, None] - 1

    for _ in range(int(lengths.max()) - 1):
        headings = heading[:, None] + rng.normal(0, 0.45, (count, 8, 3))
        headings /= np.linalg.norm(headings, axis=-1, keepdims=True)
        candidates = positions[:, None] + 1.6 * headings  # (count, 8, 3)
        index = tuple(np.moveaxis(candidates.round().astype(int), -1, 0).clip(0, last_voxel))
        best = (csf[index] - 0.1 * np.abs(depth[index] - 1).clip(0, 8)).argmax(1)
        heading = headings[np.arange(count), best]
        positions = positions + 0.8 * heading
        paths.append(positions)
    return [np.stack(paths)[: lengths[n], n] for n in range(count)]


def _dura_fraction(csf: np.ndarray) -> np.ndarray:
    """Return the sheets of dura between the hemispheres and above the cerebellum, on the grid of the template."""
    x, y, z = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in csf.shape], indexing="ij", sparse=True)
    sheet = (1.2 - np.abs(x - TEMPLATE_CENTER[0])).clip(0, 1) * 0.6
    callosum = ((98 - y + 10) / 58) ** 2 + ((z - 72 - 5) / 36) ** 2
    falx = sheet * (callosum > 1) * (z > 72 - 5)

    # The tentorium falls from the straight sinus to the transverse sinuses, between cerebellum and cerebrum.
    midline_height = 72 + 5 - 0.37 * (y - 138)
    lateral = np.abs(x - TEMPLATE_CENTER[0]) / 52
    height = midline_height + (72 - 27 - midline_height) * lateral**1.4
    tentorium = (2.6 - np.abs(z - height)).clip(0, 1) * 0.6 * (y > 136) * (y < 188) * (lateral < 1)
    return np.asarray(np.maximum(falx, tentorium) * (csf > 0.15), np.float32)
