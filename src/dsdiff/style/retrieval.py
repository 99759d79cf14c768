"""The style that is to be expected of a case: that of the training patients whose sources are most like its own.

A site has its own sequences, for T1ce as for the others. How a case's contrasts relate to one another, their noise and
their detail tell something of where it comes from: the regressions of the training patients (see `data.style`) are
summed, each weighted by a Gaussian of its distance in these measurements (see `familiar.measure`). Phantoms that were
trained on tell theirs to phantoms alone: simulated scanners are not those of hospitals.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dsdiff.errors import ModelError
from dsdiff.qc.membership import Measured, TrainingSetIndex, fit_index, flatten, parse_index, round_digits, standardize
from dsdiff.qc.ood import FEWEST
from dsdiff.style.regression import KNOTS, Code, LinearRegression

NEAR = 0.35  # width of the Gaussian, in root median squared distances
CLEARLY = 0.75  # of the squared distance to the nearest patient: a case nearer than this to a phantom is one (ADR 10)


@dataclass(frozen=True)
class StyleRetriever(TrainingSetIndex):
    """The training patients, then as many phantoms as are `simulated`, with the regressions of their targets."""

    regressions: tuple[LinearRegression, ...]
    simulated: int = 0

    def code(self, measured: Measured, besides: Sequence[int] = ()) -> Code:
        """The style to be expected of a case that measures so: by all patients besides some, or by the phantoms."""
        squared = self.squared_distances(measured)
        real = np.arange(len(self.rows)) < len(self.rows) - self.simulated
        is_phantom = self.simulated > 0 and squared[~real].min() < CLEARLY * squared[real].min()
        kept = np.flatnonzero((~real if is_phantom else real) & ~np.isin(np.arange(len(real)), besides))
        near = squared[kept]
        weights = np.exp(-(near - near.min()) / (2 * NEAR**2 * max(float(np.median(near)), 1e-12)))
        return LinearRegression.merged([self.regressions[i] for i in kept], (weights / weights.sum()).tolist()).weights

    def to_dict(self) -> dict[str, Any]:
        """What JSON keeps of measurements and regressions."""
        return super().to_dict() | {
            "simulated": self.simulated,
            "knots": self.regressions[0].knots,
            "grams": round_digits(np.stack([one.gram for one in self.regressions])),
            "moments": round_digits(np.stack([one.moment for one in self.regressions])),
        }


def learn(patients: Sequence[Measured], regressions: Sequence[LinearRegression]) -> StyleRetriever | None:
    """What these patients tell of others, None where they are too few, or were not all measured."""
    found = fit_index(patients)
    return (
        None
        if found is None or len(patients) < FEWEST
        else StyleRetriever(**vars(found), regressions=tuple(regressions))
    )


def beside(
    patients: StyleRetriever, phantoms: Sequence[Measured], regressions: Sequence[LinearRegression]
) -> StyleRetriever:
    """The same with phantoms, those that measure all that the patients do."""
    flat = [flatten(phantom) for phantom in phantoms]
    pairs = [(one, of) for one, of in zip(flat, regressions, strict=True) if set(patients.names) <= set(one)]
    rows = [
        standardize(np.array([one[n] for n in patients.names]), patients.center, patients.scale) for one, _ in pairs
    ]
    told = (*patients.regressions, *(of for _, of in pairs))
    return replace(patients, rows=np.stack([*patients.rows, *rows]), regressions=told, simulated=len(pairs))


def parse(text: str, where: str) -> StyleRetriever:
    """What `StyleRetriever.dump` wrote. Raises `ModelError` for anything else."""
    try:
        held: dict[str, Any] = json.loads(text)
        found = parse_index(text, where)
        grams, moments = (np.array(held[name], np.float64) for name in ("grams", "moments"))
        knots = next(kind for kind in KNOTS.values() if list(kind) == held["knots"])
        parts = tuple(LinearRegression.of(gram, moment, knots) for gram, moment in zip(grams, moments, strict=True))
        simulated = int(held.get("simulated", 0))
        if len(parts) != len(found.rows) or not 0 <= simulated < len(parts):
            raise ValueError(f"{len(parts)} regressions of {len(found.rows)} patients, {simulated} of them simulated")
        return StyleRetriever(**vars(found), regressions=parts, simulated=simulated)
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise ModelError(f"{where} does not say what styles its training patients had ({error})") from error
