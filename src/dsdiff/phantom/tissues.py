"""Tissues as an MRI scanner sees them: relaxation times from the literature, and how a contrast agent changes them.

Times are in ms, concentrations in mM, relaxivities in 1/(mM s). The proton density of water is 1.

Sources of `RELAXATION` (T1, T2 at 1.5 T and 3 T):
  white, gray   T1: Wright et al. 2008, MAGMA 21:121, MPRAGE. T2: Stanisz et al. 2005, MRM 54:507 (3 T: within
                its standard deviation). Proton density: Whittall et al. 1997, MRM 37:34.
  csf           T1: Lin et al. 2001, JMRI 14:368; T2: about 2 s in vivo, Daoust et al. 2017, Magn Reson Imaging 44:72.
                Measured at 3 T since (PMC10696635): T1 4309 +- 147 ms, T2 1886 +- 68 ms.
  vessel        (blood) T1: Stanisz et al. 2005, MRM 54:507. T2: below its value, for venous blood; chosen.
  edema, solid  Badve et al. 2017, AJNR 38:492, at 3 T: T1 of white matter around glioblastoma 1578 +- 331 ms, T2 of
                solid tumour 105 +- 27 ms (metastases) to 172 +- 53 ms (lower-grade glioma). Chosen within that range
                so that their contrasts with the brain, and with each other, come close to those of patients
                (`scripts/experiments/phantom_contrasts.py`, docs/phantom.md). Density, and T1 and T2 at 1.5 T, by the
                same.
  glioma        the same, lower-grade glioma.
  necrosis      between solid tumour and CSF, as in those patients: wide scatter (`SCATTER`).
  hemorrhage    methemoglobin: T1 far below that of white matter; Bradley 1993, Radiology 189:15 (order of magnitude).
  plexus, dura  soft tissue with little (plexus) and much (dura) bound water; no field-specific study: chosen.
"""

from dataclasses import dataclass

import numpy as np

from dsdiff.phantom.mri_signal import Values


@dataclass(frozen=True)
class Tissue:
    """Relaxation of one tissue.

    Attributes:
        t1: Longitudinal relaxation time in ms.
        t2: Transverse relaxation time in ms.
        pd: Proton density relative to water.
    """

    t1: float
    t2: float
    pd: float


RELAXATION: dict[float, dict[str, Tissue]] = {
    1.5: {
        "white": Tissue(646.0, 72.0, 0.70),
        "gray": Tissue(1197.0, 95.0, 0.82),
        "csf": Tissue(4070.0, 2000.0, 1.00),
        "vessel": Tissue(1441.0, 220.0, 0.85),
        "dura": Tissue(900.0, 40.0, 0.50),
        "plexus": Tissue(1500.0, 160.0, 0.90),
        "edema": Tissue(1450.0, 200.0, 0.87),
        "solid": Tissue(1370.0, 187.0, 0.90),
        "glioma": Tissue(1490.0, 206.0, 0.86),
        "necrosis": Tissue(1870.0, 360.0, 0.90),
        "hemorrhage": Tissue(520.0, 75.0, 0.80),
        "hyperintensity": Tissue(950.0, 120.0, 0.78),
    },
    3.0: {
        "white": Tissue(838.0, 70.0, 0.70),
        "gray": Tissue(1607.0, 103.0, 0.82),
        "csf": Tissue(4163.0, 2000.0, 1.00),
        "vessel": Tissue(1932.0, 200.0, 0.85),
        "dura": Tissue(1200.0, 35.0, 0.50),
        "plexus": Tissue(1900.0, 150.0, 0.90),
        "edema": Tissue(2000.0, 220.0, 0.87),
        "solid": Tissue(1850.0, 206.0, 0.90),
        "glioma": Tissue(1960.0, 206.0, 0.86),
        "necrosis": Tissue(2475.0, 504.0, 0.90),
        "hemorrhage": Tissue(700.0, 65.0, 0.80),
        "hyperintensity": Tissue(1250.0, 115.0, 0.78),
    },
}

SCATTER = {
    "necrosis": (0.15, 0.25),
    "edema": (0.10, 0.20),
    "solid": (0.12, 0.22),
    "glioma": (0.13, 0.20),
    "hyperintensity": (0.08, 0.08),
}
"""Relative scatter of T1 and of T2 between patients; all other tissues have `HEALTHY_SCATTER`."""

HEALTHY_SCATTER = (0.04, 0.04)

RELAXIVITY = {1.5: (4.0, 4.5, 4.8), 3.0: (3.5, 4.0, 5.0)}
"""Lowest and highest r1, and r2, in plasma at 37 C, in 1/(mM s).

Source: Szomolanyi et al. 2019, Invest Radiol 54:559 (r1 3 to 5 by contrast agent); Rohrer et al. 2005, Invest Radiol
40:715 (r2).
"""


def sample_tissues(field: float, rng: np.random.Generator) -> dict[str, Tissue]:
    """Sample the tissues of one patient: the values of the literature with a small scatter.

    Args:
        field: Field strength in tesla, a key of `RELAXATION`.
        rng: Random generator.

    Returns:
        Name of a tissue -> its relaxation.
    """
    tissues = {}
    for name, mean in RELAXATION[field].items():
        t1, t2 = np.exp(np.array(SCATTER.get(name, HEALTHY_SCATTER)) * rng.normal(size=2).clip(-2, 2))
        pd = 1 + 0.015 * float(rng.normal())
        tissues[name] = Tissue(float(mean.t1 * t1), float(mean.t2 * t2), float(mean.pd * pd))
    return tissues


def relaxation_with_agent(tissue: Tissue, concentration: Values, r1: float, r2: float) -> tuple[Values, Values]:
    """Compute the relaxation times of a tissue with contrast agent: 1/T = 1/T0 + r C.

    Args:
        tissue: The tissue without contrast agent.
        concentration: Concentration of contrast agent in mM.
        r1: Longitudinal relaxivity in 1/(mM s).
        r2: Transverse relaxivity in 1/(mM s).

    Returns:
        T1 and T2 in ms.
    """
    t1 = 1 / (1 / tissue.t1 + r1 * concentration / 1000)
    t2 = 1 / (1 / tissue.t2 + r2 * concentration / 1000)
    return t1, t2
