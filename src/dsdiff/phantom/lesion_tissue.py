"""Lesions as tissue: fractions of tumour, edema and white-matter spots, their contrast agent, and all tissues together.

Arrays are (x, y, z) on the 1 mm grid of the patient. Lengths are in mm, concentrations in mM.
"""

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dsdiff.phantom.anatomy import interpolate
from dsdiff.phantom.lesions import Focus, LesionPlan
from dsdiff.phantom.random_fields import sample_noise_volume

TUMOUR_TISSUES = ("necrosis", "solid", "enhancing", "hemorrhage")
LESION_TISSUES = (*TUMOUR_TISSUES, "edema", "hyperintensity")

Fractions = dict[str, np.ndarray]
"""Name of a tissue -> its fraction of every voxel, (x, y, z) in 0..1."""


def smooth_step(distance: np.ndarray, softness: float) -> np.ndarray:
    """Compute a soft edge.

    Args:
        distance: Distance to the edge, positive inside.
        softness: Width of the edge in the same unit.

    Returns:
        1 inside, 0 outside, and a smooth step between.
    """
    return 1 / (1 + np.exp(-(distance / softness).clip(-30, 30)))


def paint_lesions(
    plan: LesionPlan, tissue: Fractions, side: np.ndarray, rng: np.random.Generator
) -> tuple[Fractions, np.ndarray]:
    """Paint all lesions of a patient.

    Args:
        plan: The lesions, with centers in voxels of these arrays.
        tissue: Fractions of "white", "gray" and "csf", and "depth" in mm below the surface of the brain.
        side: Signed distance in mm from the plane between the hemispheres.
        rng: Random generator.

    Returns:
        Fractions of `LESION_TISSUES`, at most 1 in sum, and the concentration of contrast agent in "enhancing" in mM.
    """
    shape = side.shape
    lesion = {name: np.zeros(shape, np.float32) for name in LESION_TISSUES}
    uptake = np.zeros(shape, np.float32)

    for focus in plan.foci:
        reach = int(focus.radius * 1.7 + 1.6 * focus.edema_mm + 6)
        low = [max(0, int(c) - reach) for c in focus.center]
        high = [min(n, int(c) + reach + 1) for c, n in zip(focus.center, shape, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))

        local_tissue = {name: values[box] for name, values in tissue.items()}
        painted, agent = _paint_focus(focus, plan.edema_fraction, np.array(low), local_tissue, side[box], rng)
        _merge_focus({name: values[box] for name, values in lesion.items()}, painted)
        uptake[box] = np.maximum(uptake[box], agent)

    if plan.hyperintensity_load:
        free = 1 - sum(lesion.values())
        lesion["hyperintensity"] = free * _paint_hyperintensities(plan.hyperintensity_load, tissue, rng)
    return lesion, uptake


def _merge_focus(lesion: Fractions, painted: Fractions) -> None:
    """Add one focus to the lesions in its box, in place; its tumour replaces what earlier foci painted."""
    tumour = sum(painted[name] for name in TUMOUR_TISSUES)
    for name, values in lesion.items():
        covered = tumour if name in TUMOUR_TISSUES else tumour + painted["edema"]
        values *= 1 - covered
        if name in TUMOUR_TISSUES:
            values += painted[name]
        elif name == "edema":
            values += painted[name] * (1 - sum(lesion[tissue] for tissue in TUMOUR_TISSUES))


def _paint_focus(
    focus: Focus,
    edema_fraction: float,
    low: np.ndarray,
    tissue: Fractions,
    side: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Fractions, np.ndarray]:
    """Return the fractions of one focus in its own box, and the concentration of contrast agent."""
    shape, radius = side.shape, focus.radius
    axes = [np.arange(a, a + n, dtype=np.float32) for a, n in zip(low, shape, strict=True)]
    offset = np.stack(np.meshgrid(*axes, indexing="ij")) - np.array(focus.center, np.float32)[:, None, None, None]
    to_sphere = Rotation.from_euler("xyz", focus.rotation).as_matrix() / np.array(focus.axes)[:, None]
    outline = np.sqrt((np.tensordot(to_sphere, offset, axes=1) ** 2).sum(0)) / radius
    coarse_wobble = focus.wobble * sample_noise_volume(rng, shape, max(4.0, 0.8 * radius))
    fine_wobble = 0.4 * focus.wobble * sample_noise_volume(rng, shape, max(2.5, 0.3 * radius))
    outline += coarse_wobble + fine_wobble
    inward = ((1 - outline) * radius).astype(np.float32)  # about mm inside the outline of the core

    core = smooth_step(inward, focus.softness_mm) * _growth_room(focus, tissue, side, low)
    painted = {name: core * fraction for name, fraction in _sample_core(focus, inward, shape, rng).items()}

    edema_reach = focus.edema_mm * (1 + 0.45 * sample_noise_volume(rng, shape, 9.0))
    path = (tissue["white"] + 0.15 * tissue["gray"]).clip(0, 1)
    same_side = np.maximum(smooth_step(side * np.sign(_side_at(side, focus, low)), 1.5), 0.25 * tissue["white"])
    extent = smooth_step(inward + edema_reach, 2.0)
    painted["edema"] = (1 - core) * edema_fraction * path * same_side * extent * (focus.edema_mm > 1)

    agent = focus.uptake * np.exp(0.35 * sample_noise_volume(rng, shape, max(3.0, 0.35 * radius)))
    return painted, (agent * (painted["enhancing"] > 0)).astype(np.float32)


def _side_at(side: np.ndarray, focus: Focus, low: np.ndarray) -> float:
    index = tuple(int(np.clip(c - a, 0, n - 1)) for c, a, n in zip(focus.center, low, side.shape, strict=True))
    return float(side[index]) or 1.0


def _growth_room(focus: Focus, tissue: Fractions, side: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return where tumour can grow, 0..1: not in ventricles or bone, across the midline only along white matter."""
    pools = ndimage.gaussian_filter(tissue["csf"], 1.5)
    same_side = smooth_step(side * np.sign(_side_at(side, focus, low)), 0.7)
    crossing = tissue["white"] * (tissue["depth"] > 15)
    return (1 - smooth_step(pools - 0.6, 0.05)) * np.maximum(same_side, crossing) * (tissue["depth"] + 0.5).clip(0, 1)


def _sample_core(focus: Focus, inward: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> Fractions:
    """Sample how the core divides into enhancing, solid, necrosis and hemorrhage; the fractions add up to 1."""
    coarse = sample_noise_volume(rng, shape, max(3.0, 0.7 * focus.radius))
    fine = sample_noise_volume(rng, shape, max(2.5, 0.3 * focus.radius))
    if focus.look == "ring":
        thickness = focus.rim_mm * np.exp(0.5 * coarse + 0.25 * fine)
        necrosis = smooth_step(inward - thickness, 0.6)
        if focus.septa:
            necrosis *= 1 - 0.9 * np.exp(-((fine + 0.3 * coarse) ** 2) / 0.03)
        rim = sample_noise_volume(rng, shape, max(4.0, 0.9 * focus.radius)) + focus.completeness
        enhancing = smooth_step(rim, 0.15)
    elif focus.look == "solid":
        necrosis = smooth_step(fine - 2.2 + 0.04 * inward, 0.15)
        enhancing = np.ones(shape, np.float32)
    elif focus.look == "patchy":
        necrosis = smooth_step(coarse - 1.3, 0.2) * smooth_step(inward - 3, 0.7)
        enhancing = smooth_step(0.6 * fine + coarse - 0.6 + 0.7 * focus.completeness - 0.7, 0.2)
    else:
        necrosis = smooth_step(coarse - (0.2 if focus.cyst else 3.5), 0.15) * smooth_step(inward - 4, 0.7)
        enhancing = np.zeros(shape, np.float32)

    if focus.hemorrhage:
        hemorrhage = smooth_step(sample_noise_volume(rng, shape, 6.0) - 1.4, 0.15) * 0.9
    else:
        hemorrhage = np.zeros(shape, np.float32)
    living = (1 - necrosis) * (1 - hemorrhage)
    return {
        "necrosis": necrosis * (1 - hemorrhage),
        "enhancing": living * enhancing,
        "solid": living * (1 - enhancing),
        "hemorrhage": hemorrhage,
    }


def _paint_hyperintensities(load: float, tissue: Fractions, rng: np.random.Generator) -> np.ndarray:
    """Paint spots and caps in white matter, densest around the ventricles. They never enhance."""
    shape = tissue["white"].shape
    ventricles = tissue["csf"] * (tissue["depth"] > 22)
    periventricular = ndimage.gaussian_filter(ventricles, 4.0, truncate=2.5)
    coarse = 0.8 * sample_noise_volume(rng, shape, 7.0)
    fine = 0.6 * sample_noise_volume(rng, shape, 3.5)
    spots = coarse + fine + 4.0 * periventricular.clip(0, 0.5)
    bright = smooth_step(spots - (3.1 - 0.75 * load), 0.15)
    return bright * tissue["white"] ** 2 * (tissue["depth"] > 4) * 0.85


def compose_fractions(
    tissue: Fractions, sites: Fractions, lesion: Fractions, coordinates: np.ndarray, rng: np.random.Generator
) -> Fractions:
    """Put all tissues of a patient together.

    Lesions replace healthy tissue. Plexus, dura and vessels replace everything but tumour.

    Args:
        tissue: Fractions of "white", "gray" and "csf", and "depth" in mm below the surface of the brain.
        sites: Fractions of "vessel", "plexus" and "dura" on the grid of the template.
        lesion: Fractions of `LESION_TISSUES`.
        coordinates: (3, x, y, z) template voxels of the patient's grid.
        rng: Random generator.

    Returns:
        Fractions of all tissues.
    """
    tumour = sum(lesion[name] for name in TUMOUR_TISSUES)
    free = 1 - np.sum(list(lesion.values()), axis=0)
    fractions = {name: tissue[name] * free for name in ("white", "gray", "csf")} | lesion

    inside = (tissue["depth"] + 2.5).clip(0, 1)
    meninges = (1 - np.abs(tissue["depth"] + 1.3)).clip(0, 1)
    shell = meninges * smooth_step(sample_noise_volume(rng, free.shape, 12.0) - 0.3, 0.2)
    site_fractions = {name: interpolate(site, coordinates) * (1 - tumour) * inside for name, site in sites.items()}
    site_fractions["dura"] = np.maximum(site_fractions["dura"], 0.7 * shell * (1 - tumour))

    for site in ("plexus", "dura", "vessel"):
        for name in fractions:
            fractions[name] = fractions[name] * (1 - site_fractions[site])
        fractions[site] = site_fractions[site]
    return fractions


def sample_texture(fractions: Fractions, rng: np.random.Generator) -> np.ndarray:
    """Sample how T1 and T2 vary inside the tissues: a few per cent in healthy tissue, more in lesions.

    Args:
        fractions: Fractions of all tissues.
        rng: Random generator.

    Returns:
        Relative deviation of T1 and T2, (x, y, z) float32.
    """
    shape = fractions["white"].shape
    healthy = 0.04 * sample_noise_volume(rng, shape, 25.0) + 0.035 * sample_noise_volume(rng, shape, 2.5)
    abnormal = 0.16 * sample_noise_volume(rng, shape, 10.0) + 0.10 * sample_noise_volume(rng, shape, 4.0)
    lesion = np.sum([fractions[name] for name in LESION_TISSUES], axis=0)
    return np.asarray(healthy + lesion * abnormal, np.float32)
