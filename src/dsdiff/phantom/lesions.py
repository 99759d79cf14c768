"""Random lesions: which tumours a patient has, where, and how they look.

Lengths are in mm, concentrations in mM, positions in voxels of the 1 mm grid of the patient. `lesion_tissue` paints
these lesions as fractions of the tissues in `tissues.RELAXATION`.
"""

from dataclasses import asdict, dataclass, field, replace

import numpy as np

KINDS = {
    "ring": 0.30,  # glioblastoma: an irregular rim around necrosis, complete or partial, one or several foci
    "solid": 0.10,  # an enhancing nodule
    "patchy": 0.12,  # enhancement scattered through the tumour
    "metastases": 0.13,  # several small rings and nodules
    "non_enhancing": 0.15,  # glioma that keeps the contrast agent out
    "hyperintensities": 0.10,  # white-matter spots only
    "healthy": 0.10,
}
"""Probability of each kind of patient; 65 % have enhancing tumour."""

MAX_FOCUS_DISTANCE_MM = 38
"""Further foci of the same tumour lie within this distance of the main focus."""


@dataclass(frozen=True)
class Focus:
    """One focus of a tumour: an ellipsoid with an irregular outline and soft edges.

    Attributes:
        center: In voxels.
        radius: Radius of the core in mm.
        axes: Half-axes relative to `radius`.
        rotation: Euler angles of the half-axes in radians.
        look: "ring", "solid", "patchy" or "non_enhancing".
        rim_mm: Mean thickness of a ring.
        completeness: How much of a ring takes up contrast agent: 2 all of it, 0 half.
        wobble: Irregularity of the outline.
        softness_mm: Width of the edge.
        edema_mm: How far edema reaches beyond the core.
        septa: The necrosis has septa.
        cyst: A non-enhancing tumour has a cyst.
        hemorrhage: The tumour has bled.
        uptake: Concentration of contrast agent in enhancing tissue, in mM.
    """

    center: tuple[float, float, float]
    radius: float
    axes: tuple[float, float, float]
    rotation: tuple[float, float, float]
    look: str
    rim_mm: float
    completeness: float
    wobble: float
    softness_mm: float
    edema_mm: float
    septa: bool
    cyst: bool
    hemorrhage: bool
    uptake: float


@dataclass(frozen=True)
class LesionPlan:
    """All lesions of one patient.

    Attributes:
        kind: A key of `KINDS`.
        foci: The foci of the tumour, the main one first.
        mass_effect: Strength with which a tumour pushes tissue away.
        hyperintensity_load: Amount of white-matter hyperintensities, 0 for none.
        edema_fraction: Fraction of the tissue that edema replaces.
    """

    kind: str
    foci: list[Focus] = field(default_factory=list)
    mass_effect: float = 0.0
    hyperintensity_load: float = 0.0
    edema_fraction: float = 0.8

    def parameters(self) -> dict:
        """Convert the plan to plain values.

        Returns:
            A dictionary that is ready for JSON.
        """
        return asdict(self)

    def relative_to(self, first_voxel: np.ndarray) -> "LesionPlan":
        """Count the centers of the foci from the first voxel of a box.

        Args:
            first_voxel: (3,) voxel of the grid in which the centers are counted now.

        Returns:
            The same lesions, with other centers.
        """
        foci = [replace(focus, center=tuple((np.array(focus.center) - first_voxel).tolist())) for focus in self.foci]
        return replace(self, foci=foci)


def sample_kind(rng: np.random.Generator) -> str:
    """Sample a kind of patient with the probabilities of `KINDS`.

    Args:
        rng: Random generator.

    Returns:
        A key of `KINDS`.
    """
    return str(rng.choice(list(KINDS), p=list(KINDS.values())))


def sample_plan(kind: str, white: np.ndarray, depth: np.ndarray, rng: np.random.Generator, stride: int) -> LesionPlan:
    """Sample the lesions of one patient.

    Args:
        kind: A key of `KINDS`.
        white: Fraction of white matter on a coarse grid.
        depth: Depth below the surface of the brain in mm, on the same grid.
        rng: Random generator.
        stride: Voxels of 1 mm per voxel of the coarse grid.

    Returns:
        The lesions.
    """
    has_spots = kind == "hyperintensities" or rng.random() < 0.3
    load = float(rng.uniform(0.4, 1.6)) if has_spots else 0.0
    if kind == "healthy":
        return LesionPlan(kind)
    if kind == "hyperintensities":
        return LesionPlan(kind, hyperintensity_load=load)

    is_small = kind == "metastases"
    min_white, min_depth = (0.3, 5) if is_small else (0.5, 11)
    sites = np.argwhere((white > min_white) & (depth > min_depth)) * float(stride)
    main_site = rng.choice(sites)
    if is_small:
        centers = rng.choice(sites, int(rng.integers(2, 13)))
    else:
        neighbors = sites[np.linalg.norm(sites - main_site, axis=1) < MAX_FOCUS_DISTANCE_MM]
        n_satellites = int(rng.choice([0, 1, 2], p=[0.7, 0.2, 0.1]))
        centers = np.concatenate([main_site[None], rng.choice(neighbors, n_satellites)])

    foci = [_sample_focus(kind, center, n == 0, rng) for n, center in enumerate(centers)]
    mass_effect = 0.15 if is_small else float(rng.uniform(0.05, 0.5))
    return LesionPlan(kind, foci, mass_effect, load, edema_fraction=float(rng.uniform(0.7, 1.0)))


def _sample_focus(kind: str, center: np.ndarray, is_main: bool, rng: np.random.Generator) -> Focus:
    """Sample one focus of a tumour; a focus that is not the main one is smaller."""
    look = kind
    if kind == "metastases":
        radius = float(rng.uniform(2.0, 8.5))
        look = "ring" if radius > 5 and rng.random() < 0.6 else "solid"
    else:
        radius = float(rng.uniform(9, 26)) * (1.0 if is_main else float(rng.uniform(0.25, 0.6)))

    edema = float(rng.choice([rng.uniform(0, 4), rng.uniform(4, 14), rng.uniform(14, 32)], p=[0.2, 0.45, 0.35]))
    edema *= min(1.0, radius / 7) * (0.4 if look == "non_enhancing" else 1.0)
    return Focus(
        center=tuple((center + rng.uniform(-1, 1, 3)).tolist()),
        radius=radius,
        axes=tuple(rng.uniform(0.7, 1.25, 3).tolist()),
        rotation=tuple(rng.uniform(-np.pi, np.pi, 3).tolist()),
        look=look,
        rim_mm=float(np.exp(rng.uniform(np.log(1.5), np.log(6.0)))) * min(1.0, radius / 10),
        completeness=float(rng.choice([2.2, rng.uniform(-0.3, 1.2)], p=[0.6, 0.4])),
        wobble=float(rng.uniform(0.10, 0.32)),
        softness_mm=float(rng.uniform(0.5, 1.0)) if look != "non_enhancing" else float(rng.uniform(0.8, 4.0)),
        edema_mm=edema,
        septa=bool(rng.random() < 0.4),
        cyst=bool(rng.random() < 0.25),
        hemorrhage=bool(rng.random() < 0.15),
        uptake=float(np.exp(rng.uniform(np.log(0.07), np.log(0.5)))),
    )
