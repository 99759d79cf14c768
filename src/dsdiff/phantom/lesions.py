"""Lesions: tumours of many looks with necrosis and oedema, white-matter spots, and how much agent they take up.

A lesion is a noise-perturbed ellipsoid with soft edges, painted as fractions of the tissues in `signal.RELAXATION`.
Arrays are (x, y, z) on the patient's 1 mm grid; lengths in mm, concentrations in mM.
"""

from dataclasses import asdict, dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dsdiff.phantom.anatomy import noise, sample

KINDS = {
    "ring": 0.30,  # glioblastoma: an irregular rim around necrosis, whole or partial, one or several foci
    "solid": 0.10,  # an enhancing nodule
    "patchy": 0.12,  # enhancement scattered through the tumour
    "metastases": 0.13,  # several small rings and nodules
    "non_enhancing": 0.15,  # glioma that keeps the agent out
    "hyperintensities": 0.10,  # white-matter spots only
    "healthy": 0.10,
}
"""Share of patients per kind; 65 % have enhancing tumour."""

TUMOUR_TISSUES = ("necrosis", "solid", "enhancing", "haemorrhage")


@dataclass(frozen=True)
class Focus:
    """One lump: centre in voxels, radius of its core, relative half-axes, and its own look."""

    centre: tuple[float, float, float]
    radius: float
    axes: tuple[float, float, float]
    turn: tuple[float, float, float]
    look: str  # "ring", "solid", "patchy" or "non_enhancing"
    rim_mm: float  # mean thickness of a ring
    completeness: float  # how much of the rim takes up agent: 2 all of it, 0 half
    wobble: float  # irregularity of the outline
    softness_mm: float  # width of the edge
    oedema_mm: float  # how far oedema reaches beyond the core
    septa: bool
    cyst: bool
    haemorrhage: bool
    uptake: float  # mM in enhancing tissue


@dataclass(frozen=True)
class Plan:
    """What is wrong with one patient."""

    kind: str
    foci: list[Focus] = field(default_factory=list)
    push: float = 0.0  # strength of the mass effect
    spots: float = 0.0  # load of white-matter hyperintensities, 0 none
    oedema_amount: float = 0.8  # share of tissue that oedema replaces

    def parameters(self) -> dict:
        """JSON-able."""
        return asdict(self)


def draw_kind(rng: np.random.Generator) -> str:
    """A lesion kind with the probabilities of `KINDS`."""
    return str(rng.choice(list(KINDS), p=list(KINDS.values())))


def draw_plan(kind: str, white: np.ndarray, depth: np.ndarray, rng: np.random.Generator, stride: int) -> Plan:
    """Lesions of one patient. `white` and `depth` are coarse maps, one voxel in `stride`, where centres may lie."""
    spots = float(rng.uniform(0.4, 1.6)) if kind == "hyperintensities" or rng.random() < 0.3 else 0.0
    if kind in ("healthy", "hyperintensities"):
        return Plan(kind, spots=0.0 if kind == "healthy" else spots)
    small = kind == "metastases"
    places = np.argwhere((white > (0.3 if small else 0.5)) & (depth > (5 if small else 11))) * float(stride)
    first = rng.choice(places)
    if small:
        chosen = rng.choice(places, int(rng.integers(2, 13)))
    else:
        near = places[np.linalg.norm(places - first, axis=1) < 38]
        extra = int(rng.choice([0, 1, 2], p=[0.7, 0.2, 0.1]))
        chosen = np.concatenate([first[None], rng.choice(near, extra)])
    foci = [_draw_focus(kind, centre, n == 0, rng) for n, centre in enumerate(chosen)]
    push = float(rng.uniform(0.05, 0.5)) if kind != "metastases" else 0.15
    return Plan(kind, foci, push, spots, oedema_amount=float(rng.uniform(0.7, 1.0)))


def _draw_focus(kind: str, centre: np.ndarray, main: bool, rng: np.random.Generator) -> Focus:
    """One lump of a tumour of `kind`; those that are not `main` are smaller."""
    look = kind
    if kind == "metastases":
        radius = float(rng.uniform(2.0, 8.5))
        look = "ring" if radius > 5 and rng.random() < 0.6 else "solid"
    else:
        radius = float(rng.uniform(9, 26)) * (1.0 if main else float(rng.uniform(0.25, 0.6)))
    oedema = float(rng.choice([rng.uniform(0, 4), rng.uniform(4, 14), rng.uniform(14, 32)], p=[0.2, 0.45, 0.35]))
    oedema *= min(1.0, radius / 7) * (0.4 if look == "non_enhancing" else 1.0)
    return Focus(
        centre=tuple((centre + rng.uniform(-1, 1, 3)).tolist()),
        radius=radius,
        axes=tuple(rng.uniform(0.7, 1.25, 3).tolist()),
        turn=tuple(rng.uniform(-np.pi, np.pi, 3).tolist()),
        look=look,
        rim_mm=float(np.exp(rng.uniform(np.log(1.5), np.log(6.0)))) * min(1.0, radius / 10),
        completeness=float(rng.choice([2.2, rng.uniform(-0.3, 1.2)], p=[0.6, 0.4])),
        wobble=float(rng.uniform(0.10, 0.32)),
        softness_mm=float(rng.uniform(0.5, 1.0)) if look != "non_enhancing" else float(rng.uniform(0.8, 4.0)),
        oedema_mm=oedema,
        septa=bool(rng.random() < 0.4),
        cyst=bool(rng.random() < 0.25),
        haemorrhage=bool(rng.random() < 0.15),
        uptake=float(np.exp(rng.uniform(np.log(0.07), np.log(0.5)))),
    )


def edge(distance: np.ndarray, softness: float) -> np.ndarray:
    """1 inside (`distance` > 0), 0 outside, a smooth step `softness` wide between."""
    return 1 / (1 + np.exp(-(distance / softness).clip(-30, 30)))


def paint(
    plan: Plan, tissue: dict[str, np.ndarray], side: np.ndarray, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fractions of lesion tissue (x, y, z) by name, at most 1 in all, and the agent (mM) in "enhancing".

    tissue: healthy fractions and depth; side: signed distance (mm) from the plane between the hemispheres.
    """
    shape = side.shape
    lesion = {name: np.zeros(shape, np.float32) for name in (*TUMOUR_TISSUES, "oedema", "hyperintensity")}
    uptake = np.zeros(shape, np.float32)
    for focus in plan.foci:
        reach = int(focus.radius * 1.7 + 1.6 * focus.oedema_mm + 6)
        low = [max(0, int(c) - reach) for c in focus.centre]
        high = [min(n, int(c) + reach + 1) for c, n in zip(focus.centre, shape, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        local = {name: values[box] for name, values in tissue.items()}
        new, agent = _paint_focus(focus, plan.oedema_amount, np.array(low), local, side[box], rng)
        tumour = sum(new[name] for name in TUMOUR_TISSUES)
        for name, values in lesion.items():
            covered = tumour + (new["oedema"] if name in ("oedema", "hyperintensity") else 0)
            values[box] *= 1 - covered
            values[box] += new.get(name, 0) * (
                1 - sum(lesion[t][box] for t in TUMOUR_TISSUES) if name == "oedema" else 1
            )
        uptake[box] = np.maximum(uptake[box], agent)
    if plan.spots:
        free = 1 - sum(lesion.values())
        lesion["hyperintensity"] = free * _hyperintensities(plan.spots, tissue, rng)
    return lesion, uptake


def _paint_focus(
    focus: Focus,
    oedema_amount: float,
    low: np.ndarray,
    tissue: dict[str, np.ndarray],
    side: np.ndarray,
    rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fractions of one focus in its own box, and the agent's concentration there."""
    shape, radius = side.shape, focus.radius
    axes = [np.arange(a, a + n, dtype=np.float32) for a, n in zip(low, shape, strict=True)]
    away = np.stack(np.meshgrid(*axes, indexing="ij")) - np.array(focus.centre, np.float32)[:, None, None, None]
    shaped = np.tensordot(
        Rotation.from_euler("xyz", focus.turn).as_matrix() / np.array(focus.axes)[:, None], away, axes=1
    )
    outline = np.sqrt((shaped**2).sum(0)) / radius
    outline += focus.wobble * noise(rng, shape, max(4.0, 0.8 * radius)) + 0.4 * focus.wobble * noise(
        rng, shape, max(2.5, 0.3 * radius)
    )
    inward = ((1 - outline) * radius).astype(np.float32)  # about mm inside the core's outline

    room = _room(focus, tissue, side, low)
    core = edge(inward, focus.softness_mm) * room
    parts = _core_parts(focus, inward, shape, rng)
    new = {name: core * share for name, share in parts.items()}
    reach = focus.oedema_mm * (1 + 0.45 * noise(rng, shape, 9.0))
    path = tissue["white"] + 0.15 * tissue["grey"]
    same_side = np.maximum(edge(side * np.sign(_side_at(side, focus, low)), 1.5), 0.25 * tissue["white"])
    new["oedema"] = (
        (1 - core) * oedema_amount * path.clip(0, 1) * same_side * edge(inward + reach, 2.0) * (focus.oedema_mm > 1)
    )
    agent = focus.uptake * np.exp(0.35 * noise(rng, shape, max(3.0, 0.35 * radius)))
    return new, (agent * (new["enhancing"] > 0)).astype(np.float32)


def _side_at(side: np.ndarray, focus: Focus, low: np.ndarray) -> float:
    index = tuple(int(np.clip(c - a, 0, n - 1)) for c, a, n in zip(focus.centre, low, side.shape, strict=True))
    return float(side[index]) or 1.0


def _room(focus: Focus, tissue: dict[str, np.ndarray], side: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Where tumour may grow, 0..1: not in ventricles or bone, across the midline only along white matter."""
    pools = ndimage.gaussian_filter(tissue["csf"], 1.5)
    same_side = edge(side * np.sign(_side_at(side, focus, low)), 0.7)
    crossing = tissue["white"] * (tissue["depth"] > 15)
    return (1 - edge(pools - 0.6, 0.05)) * np.maximum(same_side, crossing) * (tissue["depth"] + 0.5).clip(0, 1)


def _core_parts(
    focus: Focus, inward: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """How the core divides into enhancing, solid, necrosis and haemorrhage; the shares add up to 1."""
    coarse, fine = noise(rng, shape, max(3.0, 0.7 * focus.radius)), noise(rng, shape, max(2.5, 0.3 * focus.radius))
    if focus.look == "ring":
        thickness = focus.rim_mm * np.exp(0.5 * coarse + 0.25 * fine)
        necrotic = edge(inward - thickness, 0.6)
        if focus.septa:
            necrotic *= 1 - 0.9 * np.exp(-((fine + 0.3 * coarse) ** 2) / 0.03)
        active = edge(noise(rng, shape, max(4.0, 0.9 * focus.radius)) + focus.completeness, 0.15)
    elif focus.look == "solid":
        necrotic = edge(fine - 2.2 + 0.04 * inward, 0.15)
        active = np.ones(shape, np.float32)
    elif focus.look == "patchy":
        necrotic = edge(coarse - 1.3, 0.2) * edge(inward - 3, 0.7)
        active = edge(0.6 * fine + coarse - 0.6 + 0.7 * focus.completeness - 0.7, 0.2)
    else:
        necrotic = edge(coarse - (0.2 if focus.cyst else 3.5), 0.15) * edge(inward - 4, 0.7)
        active = np.zeros(shape, np.float32)
    bled = edge(noise(rng, shape, 6.0) - 1.4, 0.15) * 0.9 if focus.haemorrhage else np.zeros(shape, np.float32)
    living = (1 - necrotic) * (1 - bled)
    return {
        "necrosis": necrotic * (1 - bled),
        "enhancing": living * active,
        "solid": living * (1 - active),
        "haemorrhage": bled,
    }


def _hyperintensities(load: float, tissue: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Spots and caps in white matter, densest around the ventricles; bright on T2 and FLAIR, never enhancing."""
    shape = tissue["white"].shape
    ventricles = tissue["csf"] * (tissue["depth"] > 22)
    near = ndimage.gaussian_filter(ventricles, 4.0, truncate=2.5)
    spots = 0.8 * noise(rng, shape, 7.0) + 0.6 * noise(rng, shape, 3.5) + 4.0 * near.clip(0, 0.5)
    bright = edge(spots - (3.1 - 0.75 * load), 0.15)
    return bright * tissue["white"] ** 2 * (tissue["depth"] > 4) * 0.85


def compose(
    tissue: dict[str, np.ndarray],
    sites: dict[str, np.ndarray],
    lesion: dict[str, np.ndarray],
    where: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """All fractions: each lesion replaces healthy tissue, vessels and dura replace what is left around it."""
    tumour = sum(lesion[name] for name in TUMOUR_TISSUES)
    free = 1 - np.sum(list(lesion.values()), axis=0)
    fractions = {name: tissue[name] * free for name in ("white", "grey", "csf")} | lesion
    inside = (tissue["depth"] + 2.5).clip(0, 1)
    shell = (1 - np.abs(tissue["depth"] + 1.3)).clip(0, 1) * edge(noise(rng, free.shape, 12.0) - 0.3, 0.2)
    share = {name: sample(map_, where) * (1 - tumour) * inside for name, map_ in sites.items()}
    share["dura"] = np.maximum(share["dura"], 0.7 * shell * (1 - tumour))
    for name in ("plexus", "dura", "vessel"):
        for other in fractions:
            fractions[other] = fractions[other] * (1 - share[name])
        fractions[name] = share[name]
    return fractions


def texture(fractions: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Relative deviation of T1 and T2 (x, y, z): a few per cent in healthy tissue, more in lesions."""
    shape = fractions["white"].shape
    healthy = 0.04 * noise(rng, shape, 25.0) + 0.035 * noise(rng, shape, 2.5)
    ill = 0.16 * noise(rng, shape, 10.0) + 0.10 * noise(rng, shape, 4.0)
    lesion = np.sum([fractions[name] for name in (*TUMOUR_TISSUES, "oedema", "hyperintensity")], axis=0)
    return np.asarray(healthy + lesion * ill, np.float32)
