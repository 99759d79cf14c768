"""How unlike the training patients a case is: plain measurements of it, judged against theirs.

A network answers whatever it is given. Three groups of measurements ask whether it should: the shape of the head (its
orientation, whether the skull is gone, whether it is a head at all), the contrasts (whether each file is what its name
says) and the detail (noise, blur, thick slices). The distance of a case in a group is Mahalanobis's, with the
correlations shrunk halfway to none, since patients are few; it is flagged beyond `MARGIN` times that of the farthest
training patient, each measured against the others.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from dsdiff.errors import ModelError
from dsdiff.io.cases import patient_of
from dsdiff.preprocessing.normalize import Prepared

MARGIN = 1.05
EXCHANGED = 0.75  # of 47 patients none comes so much nearer to the others by exchanging two of its contrasts
SHRINKAGE = 0.5
FAR = 6.0  # deviations beyond which one measurement counts no more
FEWEST = 8  # patients from which something can be learnt
WITHIN_MM = 4.0  # this far from the surface contrasts are compared: no skull, no stripping left-overs
EVERY = 7  # of the voxels there, one in so many
TAIL = 4.0  # percent
Measurements = dict[str, float]
QUESTIONS = {
    "shape": "is it a skull-stripped head, in the orientation its header says?",
    "contrast": "is each file the contrast that it is given as?",
    "detail": "was it acquired or resampled otherwise, in thick slices, or is it noisy?",
}


def measure(prepared: Prepared) -> dict[str, Measurements]:
    """Measurements of a case by group and name; those of a contrast that is absent are left out.

    "t1 and t2" are the measurements of the group "contrast" that the case would have with those two exchanged.
    """
    brain, images = prepared.brain, dict(sorted(prepared.images.items()))
    steps = max(1, round(WITHIN_MM / float(np.mean(prepared.spacing))))
    inner = ndimage.binary_erosion(brain, iterations=steps)
    inner = inner if inner.any() else brain
    values = {name: image[inner][::EVERY] for name, image in images.items()}
    found = {
        "shape": _shape(brain, images, np.array(prepared.spacing)),
        "contrast": _contrast(values),
        "detail": _detail(images, inner),
    }
    for a, b in combinations(values, 2):
        found[f"{a} and {b}"] = _contrast(values | {a: values[b], b: values[a]})
    return found


def without(measured: dict[str, Measurements], contrasts: Sequence[str]) -> dict[str, Measurements]:
    """The measurements that the same case has without these contrasts."""
    absent = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in contrasts) or r"(?!)")
    return {
        group: {name: value for name, value in found.items() if not absent.search(name)}
        for group, found in measured.items()
        if not absent.search(group)
    }


def _shape(
    brain: Bool[np.ndarray, "x y z"], images: dict[str, Float[np.ndarray, "x y z"]], spacing: Float[np.ndarray, " 3"]
) -> Measurements:
    found = {"volume": float(np.log(brain.sum() * spacing.prod())), "fill": float(brain.mean())}
    for axis, name in enumerate(("left-right", "front-back", "top-bottom")):
        others = tuple({0, 1, 2} - {axis})
        share = brain.sum(others) / brain.sum()
        place = (np.arange(len(share)) - share @ np.arange(len(share))) * spacing[axis]
        deviation = max(float(np.sqrt(share @ place**2)), 1e-3)
        mirrored = np.flip(brain, axis)
        found[f"extent {name}"] = float(len(share) * spacing[axis])
        found[f"skewness {name}"] = float(share @ (place / deviation) ** 3)
        found[f"symmetry {name}"] = float((brain & mirrored).sum() / (brain | mirrored).sum())
        for contrast, image in images.items() if axis else ():  # zero outside the brain; tumours lie on one side
            bright = image.clip(-5, 5).sum(others) / brain.sum()
            found[f"brightness of {contrast} {name}"] = float(bright @ place / deviation)
    return found


def _contrast(values: dict[str, Float[np.ndarray, " n"]]) -> Measurements:
    found = {}
    for a, b in combinations(values, 2):
        for name, most in (("tissues", 1.5), ("tissues and fluid", 6.0)):
            found[f"correlation of {name} in {a}, {b}"] = _correlation(
                values[a].clip(-most, most), values[b].clip(-most, most)
            )
    for a, b in permutations(values, 2):
        low, high = np.percentile(values[a], (TAIL, 100 - TAIL))
        found[f"darkest of {a} in {b}"] = float(np.median(values[b][values[a] <= low]).clip(-8, 8))
        found[f"brightest of {a} in {b}"] = float(np.median(values[b][values[a] >= high]).clip(-8, 8))
    return found


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def _detail(images: dict[str, Float[np.ndarray, "x y z"]], inner: Bool[np.ndarray, "x y z"]) -> Measurements:
    found = {}
    for name, image in images.items():
        calm = image.clip(-10, 10)
        bends = [np.abs(ndimage.correlate1d(calm, (1, -2, 1), axis, mode="nearest"))[inner] for axis in range(3)]
        x, y, z = (float(bend.mean()) + 1e-6 for bend in bends)
        found[f"roughness of {name}"] = float(np.log(x + y + z))
        found[f"detail across slices of {name}"] = float(np.log(z / np.sqrt(x * y)))
    return found


@dataclass(frozen=True)
class Group:
    """The training patients' measurements of one group: their middle, width and correlations, and how far is far."""

    names: tuple[str, ...]
    middle: tuple[float, ...]
    width: tuple[float, ...]
    correlation: tuple[tuple[float, ...], ...]
    limit: float = float("inf")

    def deviations(self, found: Measurements) -> dict[str, float]:
        """Each measurement's distance from the middle in widths, where the case has it."""
        each = zip(self.names, self.middle, self.width, strict=True)
        return {name: (found[name] - middle) / width for name, middle, width in each if name in found}

    def distance(self, found: Measurements) -> float:
        """Mahalanobis's distance over the measurements that the case has, per measurement."""
        z = self.deviations(found)
        there = [index for index, name in enumerate(self.names) if name in z]
        held = np.clip(list(z.values()), -FAR, FAR)
        correlation = np.array(self.correlation)[np.ix_(there, there)]
        return float(np.sqrt(held @ np.linalg.solve(correlation, held) / len(held))) if there else 0.0


@dataclass(frozen=True)
class Familiar:
    """What the training patients were like. `score` is 1 at the edge of what is familiar."""

    groups: dict[str, Group]

    def scores(self, found: dict[str, Measurements]) -> dict[str, float]:
        """The distance of a case in each group over that group's limit."""
        return {name: group.distance(found[name]) / group.limit for name, group in self.groups.items()}

    def doubts(self, found: dict[str, Measurements]) -> tuple[str, ...]:
        """Contrasts that seem exchanged, and each group beyond its limit with the measurement that stands out most."""
        contrast = self.groups["contrast"]
        given = contrast.distance(found["contrast"])
        others = {name: contrast.distance(found[name]) for name in found if name not in self.groups}
        likely = min(others, key=others.__getitem__, default=None)
        said = []
        if likely is not None and others[likely] < EXCHANGED * given:
            said.append(f"{likely} seem exchanged: is each file the contrast that it is given as?")
        for name, score in self.scores(found).items():
            if score > 1:
                group = self.groups[name]
                z = group.deviations(found[name])
                odd = max(z, key=lambda one: abs(z[one]))
                usual = group.middle[group.names.index(odd)]
                said.append(
                    f"unlike the training patients in {name} ({score:.1f} times the limit; {odd} is "
                    f"{found[name][odd]:.2f}, usually {usual:.2f}): {QUESTIONS[name]}"
                )
        return tuple(said)

    def dump(self) -> str:
        """As JSON."""
        return json.dumps({name: asdict(group) for name, group in self.groups.items()})


def learn(cases: Mapping[str, dict[str, Measurements]]) -> Familiar | None:
    """What these cases are like, by their names, None where the patients are too few to say. How far apart patients are
    is told by each one's distance to the others, its own other visits left out.
    """
    whose = [patient_of(name) for name in cases]
    if len(set(whose)) < FEWEST:
        return None
    groups = {}
    for name in QUESTIONS:
        rows = [case[name] for case in cases.values()]
        others = {one: _fit([row for row, of in zip(rows, whose, strict=True) if of != one]) for one in set(whose)}
        apart = [others[one].distance(row) for row, one in zip(rows, whose, strict=True)]
        groups[name] = _fit(rows, MARGIN * max(apart))
    return Familiar(groups)


def _fit(rows: list[Measurements], limit: float = float("inf")) -> Group:
    names = tuple(name for name in rows[0] if all(name in row for row in rows))
    values = np.array([[row[name] for name in names] for row in rows])
    middle = np.median(values, 0)
    width = np.maximum(values.std(0), 1e-3)
    held = ((values - middle) / width).clip(-FAR, FAR)
    alone = (held - held.mean(0)) / np.maximum(held.std(0), 1e-9)
    correlation = (1 - SHRINKAGE) * (alone.T @ alone) / len(rows)
    np.fill_diagonal(correlation, 1)
    return Group(names, tuple(middle.tolist()), tuple(width.tolist()), tuple(map(tuple, correlation.tolist())), limit)


def parse(text: str, where: str) -> Familiar:
    """What `dump` wrote. Raises `ModelError` for anything else."""
    try:
        held = json.loads(text)
        return Familiar({name: Group(**{k: _frozen(v) for k, v in held[name].items()}) for name in QUESTIONS})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{where} does not say what the training patients were like ({error})") from error


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
