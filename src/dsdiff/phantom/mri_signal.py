"""Signal equations of MRI, and the pulse sequences of the four contrasts.

Times are in ms, flip angles in degrees. Every equation takes numbers or arrays: proton density relative to water, T1
and T2. It returns the signal, where fully relaxed water (proton density 1, no decay) has a signal of 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Values = Any  # a number or an array of numbers

FLOW_DECAY_MS = 40.0
"""How fast flowing blood leaves the slice before its echo is read (flow void).

Of its signal, exp(-TE / FLOW_DECAY_MS) is left. Chosen.
"""

WHITE_MATTER_T1_MS = 800.0
"""T1 for which the flip angle of a gradient echo is chosen."""


def spin_echo(pd: Values, t1: Values, t2: Values, *, tr: float, te: float) -> Values:
    """Compute the signal of a (turbo) spin echo with TE << TR: S = PD (1 - exp(-TR/T1)) exp(-TE/T2).

    Args:
        pd: Proton density.
        t1: T1.
        t2: T2.
        tr: Repetition time.
        te: Echo time.

    Returns:
        The signal.
    """
    return pd * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)


def inversion_recovery(pd: Values, t1: Values, t2: Values, *, tr: float, te: float, ti: float) -> Values:
    """Compute the magnitude signal of an inversion-recovery spin echo.

    S = PD |1 - 2 exp(-TI/T1) + exp(-TR/T1)| exp(-TE/T2).

    Args:
        pd: Proton density.
        t1: T1.
        t2: T2.
        tr: Repetition time.
        te: Echo time.
        ti: Inversion time.

    Returns:
        The signal.
    """
    return pd * np.abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)


def spoiled_gradient_echo(pd: Values, t1: Values, t2: Values, *, tr: float, te: float, flip: float) -> Values:
    """Compute the signal of a spoiled gradient echo.

    S = PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE/T2), E1 = exp(-TR/T1).
    Source: Ernst & Anderson 1966, Rev Sci Instrum 37:93.
    T2 replaces T2*: at the few ms of TE used here the two differ by less than the scatter of the tissues.

    Args:
        pd: Proton density.
        t1: T1.
        t2: T2.
        tr: Repetition time.
        te: Echo time.
        flip: Flip angle a.

    Returns:
        The signal.
    """
    e1, angle = np.exp(-tr / t1), np.deg2rad(flip)
    return pd * np.sin(angle) * (1 - e1) / (1 - np.cos(angle) * e1) * np.exp(-te / t2)


def null_time(t1: float, tr: float) -> float:
    """Compute the inversion time at which `inversion_recovery` has no signal: TI = T1 (ln 2 - ln(1 + exp(-TR/T1))).

    Args:
        t1: T1.
        tr: Repetition time.

    Returns:
        Inversion time.
    """
    return float(t1 * (np.log(2) - np.log1p(np.exp(-tr / t1))))


def ernst_angle(t1: float, tr: float) -> float:
    """Compute the flip angle of the largest spoiled gradient-echo signal: cos(a) = exp(-TR/T1).

    Args:
        t1: T1.
        tr: Repetition time.

    Returns:
        Flip angle.
    """
    return float(np.rad2deg(np.arccos(np.exp(-tr / t1))))


@dataclass(frozen=True)
class PulseSequence:
    """One pulse sequence.

    Attributes:
        name: "spin_echo", "inversion_recovery" or "spoiled_gradient_echo".
        tr: Repetition time.
        te: Echo time.
        ti: Inversion time, only for inversion recovery.
        flip: Flip angle, only for the gradient echo.
    """

    name: str
    tr: float
    te: float
    ti: float = 0.0
    flip: float = 90.0

    def flow_attenuation(self) -> float:
        """Compute the fraction of the signal of flowing blood that the scanner receives.

        Returns:
            A fraction in 0..1.
        """
        return float(np.exp(-self.te / FLOW_DECAY_MS))

    def signal(self, pd: Values, t1: Values, t2: Values) -> Values:
        """Compute the signal of one tissue.

        Args:
            pd: Proton density.
            t1: T1.
            t2: T2.

        Returns:
            The signal.

        Raises:
            ValueError: The name of the sequence is unknown.
        """
        if self.name == "spin_echo":
            return spin_echo(pd, t1, t2, tr=self.tr, te=self.te)
        if self.name == "inversion_recovery":
            return inversion_recovery(pd, t1, t2, tr=self.tr, te=self.te, ti=self.ti)
        if self.name == "spoiled_gradient_echo":
            return spoiled_gradient_echo(pd, t1, t2, tr=self.tr, te=self.te, flip=self.flip)
        raise ValueError(f"unknown pulse sequence {self.name!r}")


def sample_t1_sequence(rng: np.random.Generator) -> PulseSequence:
    """Sample a T1-weighted sequence as in clinical use: a 2-D spin echo or a 3-D spoiled gradient echo.

    Args:
        rng: Random generator.

    Returns:
        The sequence.
    """
    if rng.random() < 0.5:
        return PulseSequence("spin_echo", tr=float(rng.uniform(450, 700)), te=float(rng.uniform(8, 15)))

    tr = float(rng.uniform(7, 25))
    # Two to three times the Ernst angle of white matter weights T1 most.
    flip = float(rng.uniform(1.9, 2.8)) * ernst_angle(WHITE_MATTER_T1_MS, tr)
    return PulseSequence("spoiled_gradient_echo", tr=tr, te=float(rng.uniform(2, 5)), flip=flip)


def sample_t2_sequence(rng: np.random.Generator) -> PulseSequence:
    """Sample a T2-weighted sequence: a turbo spin echo with a long TR.

    Args:
        rng: Random generator.

    Returns:
        The sequence.
    """
    return PulseSequence("spin_echo", tr=float(rng.uniform(4000, 9000)), te=float(rng.uniform(90, 140)))


def sample_flair_sequence(csf_t1: float, rng: np.random.Generator) -> PulseSequence:
    """Sample a FLAIR sequence: an inversion recovery that nulls CSF with an error of a few per cent.

    A fixed TI leaves such an error in a real patient.

    Args:
        csf_t1: T1 of the patient's CSF in ms.
        rng: Random generator.

    Returns:
        The sequence.
    """
    tr = float(rng.uniform(8000, 11000))
    ti = null_time(csf_t1, tr) * float(rng.uniform(0.95, 1.03))
    return PulseSequence("inversion_recovery", tr=tr, te=float(rng.uniform(90, 140)), ti=ti)
