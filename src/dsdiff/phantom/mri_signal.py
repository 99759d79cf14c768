"""What an MRI scanner measures: relaxation times from the literature, the contrast agent and the signal equations.

Times are in ms, flip angles in degrees, concentrations in mM, relaxivities in 1/(mM s). Every equation takes numbers
or arrays alike and returns the signal of fully relaxed water (proton density 1, no decay) as 1.

Sources of `RELAXATION` (T1, T2 at 1.5 T and 3 T):
  white, grey   T1: Wright et al. 2008, MAGMA 21:121, MPRAGE. T2: Stanisz et al. 2005, MRM 54:507 (3 T: within
                its spread). Proton density: Whittall et al. 1997, MRM 37:34.
  csf           T1: Lin et al. 2001, JMRI 14:368; T2: about 2 s in vivo, Daoust et al. 2017, Magn Reson Imaging 44:72.
                Measured at 3 T since (PMC10696635): T1 4309 +- 147 ms, T2 1886 +- 68 ms.
  vessel        (blood) T1: Stanisz et al. 2005, MRM 54:507. T2: below its value, for venous blood; chosen.
  oedema, solid Badve et al. 2017, AJNR 38:492, at 3 T: T1 of white matter around glioblastoma 1578 +- 331 ms, T2 of
                solid tumour 105 +- 27 ms (metastases) to 172 +- 53 ms (lower-grade glioma). Chosen within that spread
                so that their contrasts with the brain, and with each other, come close to those of patients
                (`benchmarks/phantom_contrasts.py`, docs/phantom.md). Density, and T1 and T2 at 1.5 T, by the same.
  glioma        the same, lower-grade glioma.
  necrosis      between solid tumour and CSF, as in those patients: wide scatter (`SCATTER`).
  haemorrhage   methaemoglobin: T1 far below that of white matter; Bradley 1993, Radiology 189:15 (order of magnitude).
  plexus, dura  soft tissue with little (plexus) and much (dura) bound water; no field-specific study: chosen.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

Values = Any  # a number or an array of numbers

LEAST_ENHANCEMENT = 0.01
"""Enhancement below this share of the brain's median signal is none: no reader could see it."""


@dataclass(frozen=True)
class Tissue:
    """Longitudinal and transverse relaxation time (ms) and proton density relative to water."""

    t1: float
    t2: float
    pd: float


RELAXATION: dict[float, dict[str, Tissue]] = {
    1.5: {
        "white": Tissue(646.0, 72.0, 0.70),
        "grey": Tissue(1197.0, 95.0, 0.82),
        "csf": Tissue(4070.0, 2000.0, 1.00),
        "vessel": Tissue(1441.0, 220.0, 0.85),
        "dura": Tissue(900.0, 40.0, 0.50),
        "plexus": Tissue(1500.0, 160.0, 0.90),
        "oedema": Tissue(1450.0, 200.0, 0.87),
        "solid": Tissue(1370.0, 187.0, 0.90),
        "glioma": Tissue(1490.0, 206.0, 0.86),
        "necrosis": Tissue(1870.0, 360.0, 0.90),
        "haemorrhage": Tissue(520.0, 75.0, 0.80),
        "hyperintensity": Tissue(950.0, 120.0, 0.78),
    },
    3.0: {
        "white": Tissue(838.0, 70.0, 0.70),
        "grey": Tissue(1607.0, 103.0, 0.82),
        "csf": Tissue(4163.0, 2000.0, 1.00),
        "vessel": Tissue(1932.0, 200.0, 0.85),
        "dura": Tissue(1200.0, 35.0, 0.50),
        "plexus": Tissue(1900.0, 150.0, 0.90),
        "oedema": Tissue(2000.0, 220.0, 0.87),
        "solid": Tissue(1850.0, 206.0, 0.90),
        "glioma": Tissue(1960.0, 206.0, 0.86),
        "necrosis": Tissue(2475.0, 504.0, 0.90),
        "haemorrhage": Tissue(700.0, 65.0, 0.80),
        "hyperintensity": Tissue(1250.0, 115.0, 0.78),
    },
}

SCATTER = {
    "necrosis": (0.15, 0.25),
    "oedema": (0.10, 0.20),
    "solid": (0.12, 0.22),
    "glioma": (0.13, 0.20),
    "hyperintensity": (0.08, 0.08),
}
"""Relative between-patient scatter of T1 and of T2; `HEALTHY_SCATTER` for every tissue not named."""

HEALTHY_SCATTER = (0.04, 0.04)

RELAXIVITY = {1.5: (4.0, 4.5, 4.8), 3.0: (3.5, 4.0, 5.0)}
"""Lowest and highest r1 drawn, and r2, in plasma at 37 C; Szomolanyi et al. 2019, Invest Radiol 54:559 (r1 3 to 5 by
agent); Rohrer et al. 2005, Invest Radiol 40:715 (r2)."""

FLOW_MS = 40.0
"""How fast flowing blood leaves the slice before its echo is read (flow void): exp(-TE / FLOW_MS) is left. Chosen."""


def draw_tissues(field: float, rng: np.random.Generator) -> dict[str, Tissue]:
    """One patient's tissues at `field` tesla: the literature's values with a small scatter of T1, T2 and density."""
    drawn = {}
    for name, mean in RELAXATION[field].items():
        t1, t2 = np.exp(np.array(SCATTER.get(name, HEALTHY_SCATTER)) * rng.normal(size=2).clip(-2, 2))
        pd = 1 + 0.015 * float(rng.normal())
        drawn[name] = Tissue(float(mean.t1 * t1), float(mean.t2 * t2), float(mean.pd * pd))
    return drawn


def spin_echo(pd: Values, t1: Values, t2: Values, *, tr: float, te: float) -> Values:
    """(Turbo) spin echo, TE << TR: S = PD (1 - exp(-TR/T1)) exp(-TE/T2)."""
    return pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)


def inversion_recovery(pd: Values, t1: Values, t2: Values, *, tr: float, te: float, ti: float) -> Values:
    """Magnitude inversion-recovery spin echo: S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2)."""
    return pd * np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)


def spoiled_gradient_echo(pd: Values, t1: Values, t2: Values, *, tr: float, te: float, flip: float) -> Values:
    """Spoiled gradient echo: S = PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE/T2), E1 = exp(-TR/T1).

    Source: Ernst & Anderson 1966, Rev Sci Instrum 37:93.
    T2 stands for T2*: at the few ms of TE used here the two differ by less than the tissues' scatter.
    """
    e1, angle = np.exp(-tr / t1), np.deg2rad(flip)
    return pd * np.sin(angle) * (1 - e1) / (1 - np.cos(angle) * e1) * np.exp(-te / t2)


def null_time(t1: float, tr: float) -> float:
    """Inversion time (ms) at which `inversion_recovery` has no signal: TI = T1 (ln 2 - ln(1 + exp(-TR/T1)))."""
    return float(t1 * (np.log(2) - np.log1p(np.exp(-tr / t1))))


def ernst_angle(t1: float, tr: float) -> float:
    """Flip angle (degrees) of the largest spoiled gradient-echo signal: cos(a) = exp(-TR/T1)."""
    return float(np.rad2deg(np.arccos(np.exp(-tr / t1))))


def with_agent(tissue: Tissue, concentration: Values, r1: float, r2: float) -> tuple[Values, Values]:
    """T1 and T2 (ms) of a tissue that holds `concentration` mM of agent: 1/T = 1/T0 + r C."""
    return 1 / (1 / tissue.t1 + r1 * concentration / 1000), 1 / (1 / tissue.t2 + r2 * concentration / 1000)


@dataclass(frozen=True)
class Sequence:
    """One pulse sequence; `name` is one of the three equations above and unused times are 0."""

    name: str
    tr: float
    te: float
    ti: float = 0.0
    flip: float = 90.0

    def flow(self) -> float:
        """Share of flowing blood's signal that is left."""
        return float(np.exp(-self.te / FLOW_MS))

    def signal(self, pd: Values, t1: Values, t2: Values) -> Values:
        """Signal of one tissue, arrays or numbers."""
        if self.name == "spin_echo":
            return spin_echo(pd, t1, t2, tr=self.tr, te=self.te)
        if self.name == "inversion_recovery":
            return inversion_recovery(pd, t1, t2, tr=self.tr, te=self.te, ti=self.ti)
        if self.name == "spoiled_gradient_echo":
            return spoiled_gradient_echo(pd, t1, t2, tr=self.tr, te=self.te, flip=self.flip)
        raise ValueError(f"unknown pulse sequence {self.name!r}")


def draw_t1_sequence(rng: np.random.Generator) -> Sequence:
    """T1 weighting as hospitals do it: a 2-D spin echo or a 3-D spoiled gradient echo."""
    if rng.random() < 0.5:
        return Sequence("spin_echo", tr=float(rng.uniform(450, 700)), te=float(rng.uniform(8, 15)))
    tr = float(rng.uniform(7, 25))
    # Twice to three times the Ernst angle of white matter weighs T1 most.
    flip = float(rng.uniform(1.9, 2.8)) * ernst_angle(800.0, tr)
    return Sequence("spoiled_gradient_echo", tr=tr, te=float(rng.uniform(2, 5)), flip=flip)


def draw_t2_sequence(rng: np.random.Generator) -> Sequence:
    """Turbo spin echo with a long TR."""
    return Sequence("spin_echo", tr=float(rng.uniform(4000, 9000)), te=float(rng.uniform(90, 140)))


def draw_flair_sequence(csf_t1: float, rng: np.random.Generator) -> Sequence:
    """Inversion recovery that nulls CSF, with the few per cent of error that a fixed TI leaves in a real patient."""
    tr = float(rng.uniform(8000, 11000))
    ti = null_time(csf_t1, tr) * float(rng.uniform(0.95, 1.03))
    return Sequence("inversion_recovery", tr=tr, te=float(rng.uniform(90, 140)), ti=ti)


@dataclass(frozen=True)
class Sampling:
    """How a scan samples the head: slices of `thickness` mm across `axis`, in-plane blur and registration error."""

    thickness: float
    axis: int
    blur_mm: float  # sigma in the plane
    shift_mm: tuple[float, float, float]
    turn_deg: tuple[float, float, float]


def draw_sampling(rng: np.random.Generator, thick_share: float, misregistration: float) -> Sampling:
    """Thin slices, or thick ones with probability `thick_share`; `misregistration` 1 is about 0.4 mm and degree."""
    thick = rng.random() < thick_share
    return Sampling(
        thickness=float(rng.uniform(2.5, 6.0)) if thick else float(rng.choice([1.0, 1.5])),
        axis=int(rng.choice([2, 1, 0], p=[0.85, 0.08, 0.07])) if thick else 2,
        blur_mm=float(rng.uniform(0.2, 0.55)),
        shift_mm=tuple((misregistration * rng.normal(0, 0.4, 3).clip(-1, 1) + 0.0).tolist()),
        turn_deg=tuple((misregistration * rng.normal(0, 0.4, 3).clip(-1, 1) + 0.0).tolist()),
    )


def receive(volume: np.ndarray, sampling: Sampling) -> np.ndarray:
    """What the receiver gets: `volume` (1 mm) blurred in the plane and averaged over slices, on the slices' grid."""
    sigma = [sampling.blur_mm] * 3
    sigma[sampling.axis] = 0
    blurred = ndimage.gaussian_filter(volume, sigma, truncate=3.0)
    if sampling.thickness <= 1:
        return blurred
    # A box as wide as a slice, also when that is not a whole number of voxels.
    half = (sampling.thickness - 1) / 2
    reach = int(np.ceil(half))
    weights = np.ones(2 * reach + 1)
    weights[[0, -1]] = 1 - (reach - half) if reach else 1
    averaged = ndimage.correlate1d(blurred, weights / weights.sum(), axis=sampling.axis, mode="nearest")
    at = np.arange(0, volume.shape[sampling.axis] + sampling.thickness - 1, sampling.thickness)
    lower = np.floor(at).astype(int).clip(0, volume.shape[sampling.axis] - 1)
    upper = (lower + 1).clip(0, volume.shape[sampling.axis] - 1)
    part = (at - np.floor(at)).reshape([-1 if axis == sampling.axis else 1 for axis in range(3)]).astype(np.float32)
    return np.take(averaged, lower, sampling.axis) * (1 - part) + np.take(averaged, upper, sampling.axis) * part


def regrid(slices: np.ndarray, sampling: Sampling, shape: tuple[int, ...], turn: np.ndarray) -> np.ndarray:
    """`slices` as `receive` made them, back on the 1 mm grid of `shape`, linearly, moved by the registration's error.

    turn: (3, 3), the rotation of `sampling.turn_deg`.
    """
    centre = (np.array(shape) - 1) / 2
    matrix, offset = turn.copy(), centre - turn @ centre + np.array(sampling.shift_mm)
    matrix[sampling.axis] /= sampling.thickness
    offset[sampling.axis] /= sampling.thickness
    if np.array_equal(matrix, np.eye(3)) and not offset.any():
        return slices
    return ndimage.affine_transform(slices, matrix, offset, output_shape=shape, order=1, mode="nearest")


def rician(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of `clean` with Gaussian noise of `sigma` in both channels; Gudbjartsson & Patz 1995, MRM 34:910."""
    real = clean + sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    return np.sqrt(real**2 + imaginary**2)


@dataclass(frozen=True)
class Scan:
    """One contrast's settings: sequence, slices, receive bias (x, y, z) around 1, median, noise relative to it."""

    sequence: Sequence
    sampling: Sampling
    bias: np.ndarray
    level: float
    noise: float


def image(
    plain: np.ndarray, added: np.ndarray | None, scan: Scan, brain: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One contrast and its enhancement as stored: sampled, noisy, scaled to `scan.level`, whole numbers, brain only.

    The enhancement is added last, as a whole number, so that a noiseless T1ce minus T1 is the enhancement bit for bit.
    """
    turn = Rotation.from_euler("xyz", scan.sampling.turn_deg, degrees=True).as_matrix()

    def place(slices: np.ndarray) -> np.ndarray:
        return regrid(slices, scan.sampling, brain.shape, turn)

    slices = receive(plain * scan.bias, scan.sampling)
    clean = place(slices)
    gain = np.float32(scan.level / np.median(clean[brain]))
    extra = receive(added * scan.bias, scan.sampling) if added is not None else np.zeros_like(slices)
    if scan.noise > 0:
        received = gain * (slices + extra)
        clean = clean * gain + place(rician(received, scan.noise * scan.level, rng) - received)
    else:
        clean = clean * gain
    enhancement = np.rint(gain * place(extra)) * brain
    enhancement[enhancement < LEAST_ENHANCEMENT * scan.level] = 0
    return (np.rint(clean).clip(1) + enhancement) * brain, enhancement
