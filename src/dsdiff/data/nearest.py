"""The style that is to be expected of a case: that of the training patients whose sources are most like its own.

A site has its own sequences, for T1ce as for the others. How a case's contrasts relate to one another, their noise and
their detail tell something of where it comes from: the regressions of the training patients (see `data.style`) are
summed, each weighted by a Gaussian of its distance in these measurements (see `familiar.measure`). Phantoms that were
trained on tell theirs to phantoms alone: simulated scanners are not those of hospitals.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from dsdiff.data.familiar import FEWEST, Measurements
from dsdiff.data.style import KNOTS, Code, LinearRegression
from dsdiff.errors import ModelError

GROUPS = ("contrast", "detail")
FAR = 3.0  # deviations beyond which one measurement counts no more
SAME = 0.01  # in deviations: nearer than this it is the same patient
NEAR = 0.35  # width of the Gaussian, in root median squared distances
CLEARLY = 0.75  # of the squared distance to the nearest patient: a case nearer than this to a phantom is one (ADR 10)
Measured = Mapping[str, Measurements]


@dataclass(frozen=True)
class Known:
    """Measurements of the training patients, a row for each: enough to know one again."""

    names: tuple[str, ...]
    middle: Float[np.ndarray, " m"]
    width: Float[np.ndarray, " m"]
    rows: Float[np.ndarray, "p m"]

    def holds(self, measured: Measured) -> bool:
        """Whether a case is one of these patients: of 47, none measures within 0.3 of another."""
        return bool(np.sqrt(self._squared(measured).min()) < SAME)

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(self.told())

    def told(self) -> dict[str, Any]:
        """What JSON keeps of the measurements."""
        return {
            "names": self.names,
            "middle": _rounded(self.middle),
            "width": _rounded(self.width),
            "rows": _rounded(self.rows),
        }

    def _squared(self, measured: Measured) -> Float[np.ndarray, " p"]:
        """Mean squared distance of a case to every patient, over the measurements that it has."""
        found = _flat(measured)
        there = [index for index, name in enumerate(self.names) if name in found]
        row = np.array([found[self.names[index]] for index in there])
        row = _held(row, self.middle[there], self.width[there])
        return ((self.rows[:, there] - row) ** 2).mean(1) if there else np.full(len(self.rows), FAR**2)


@dataclass(frozen=True)
class Nearest(Known):
    """The training patients, then as many phantoms as are `simulated`, with the regressions of their targets."""

    regressions: tuple[LinearRegression, ...]
    simulated: int = 0

    def code(self, measured: Measured, besides: Sequence[int] = ()) -> Code:
        """The style to be expected of a case that measures so: by all patients besides some, or by the phantoms."""
        squared = self._squared(measured)
        real = np.arange(len(self.rows)) < len(self.rows) - self.simulated
        is_phantom = self.simulated > 0 and squared[~real].min() < CLEARLY * squared[real].min()
        kept = np.flatnonzero((~real if is_phantom else real) & ~np.isin(np.arange(len(real)), besides))
        near = squared[kept]
        weights = np.exp(-(near - near.min()) / (2 * NEAR**2 * max(float(np.median(near)), 1e-12)))
        return LinearRegression.merged([self.regressions[i] for i in kept], (weights / weights.sum()).tolist()).weights

    def told(self) -> dict[str, Any]:
        """What JSON keeps of measurements and regressions."""
        return super().told() | {
            "simulated": self.simulated,
            "knots": self.regressions[0].knots,
            "grams": _rounded(np.stack([one.gram for one in self.regressions])),
            "moments": _rounded(np.stack([one.moment for one in self.regressions])),
        }


def known(patients: Sequence[Measured]) -> Known | None:
    """These patients, to be known again; None where there is none, or not all were measured."""
    if not patients or not all(patients):
        return None
    found = [_flat(patient) for patient in patients]
    names = tuple(name for name in found[0] if all(name in one for one in found))
    values = np.array([[one[name] for name in names] for one in found])
    middle, width = np.median(values, 0), np.maximum(values.std(0), 1e-3)
    return Known(names, middle, width, _held(values, middle, width))


def learn(patients: Sequence[Measured], regressions: Sequence[LinearRegression]) -> Nearest | None:
    """What these patients tell of others, None where they are too few, or were not all measured."""
    found = known(patients)
    return None if found is None or len(patients) < FEWEST else Nearest(**vars(found), regressions=tuple(regressions))


def beside(patients: Nearest, phantoms: Sequence[Measured], regressions: Sequence[LinearRegression]) -> Nearest:
    """The same with phantoms, those that measure all that the patients do."""
    flat = [_flat(phantom) for phantom in phantoms]
    pairs = [(one, of) for one, of in zip(flat, regressions, strict=True) if set(patients.names) <= set(one)]
    rows = [_held(np.array([one[n] for n in patients.names]), patients.middle, patients.width) for one, _ in pairs]
    told = (*patients.regressions, *(of for _, of in pairs))
    return replace(patients, rows=np.stack([*patients.rows, *rows]), regressions=told, simulated=len(pairs))


def parse_known(text: str, where: str) -> Known:
    """What `Known.dump` wrote, or `Nearest.dump`. Raises `ModelError` for anything else."""
    try:
        held: dict[str, Any] = json.loads(text)
        middle, width, rows = (np.array(held[name], np.float64) for name in ("middle", "width", "rows"))
        names = tuple(map(str, held["names"]))
        if rows.ndim != 2 or not rows.shape[1] == len(names) == len(middle) == len(width):
            raise ValueError(f"measurements are of shape {rows.shape}")
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{where} does not say what its training patients were like ({error})") from error
    return Known(names, middle, width, rows)


def parse(text: str, where: str) -> Nearest:
    """What `Nearest.dump` wrote. Raises `ModelError` for anything else."""
    try:
        held: dict[str, Any] = json.loads(text)
        found = parse_known(text, where)
        grams, moments = (np.array(held[name], np.float64) for name in ("grams", "moments"))
        knots = next(kind for kind in KNOTS.values() if list(kind) == held["knots"])
        parts = tuple(LinearRegression.of(gram, moment, knots) for gram, moment in zip(grams, moments, strict=True))
        simulated = int(held.get("simulated", 0))
        if len(parts) != len(found.rows) or not 0 <= simulated < len(parts):
            raise ValueError(f"{len(parts)} regressions of {len(found.rows)} patients, {simulated} of them simulated")
        return Nearest(**vars(found), regressions=parts, simulated=simulated)
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise ModelError(f"{where} does not say what styles its training patients had ({error})") from error


def _flat(measured: Measured) -> Measurements:
    return {name: value for group in GROUPS for name, value in measured.get(group, {}).items()}


def _held(values: np.ndarray, middle: np.ndarray, width: np.ndarray) -> np.ndarray:
    return ((values - middle) / width).clip(-FAR, FAR)


def _rounded(values: np.ndarray) -> Any:
    """Six digits are more than any of them is known to."""
    return np.array([float(f"{value:.6g}") for value in values.ravel()]).reshape(values.shape).tolist()
