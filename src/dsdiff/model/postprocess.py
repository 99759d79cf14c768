"""What each scale of a network's answer is worth, learnt on patients that it never saw.

The answer is the style that the network was told and its change to that: agent, vessels, and what it took for noise. A
network of few patients is too sure of its changes, most of all of the finest ones, which blur, and of tumours. Both are
taken apart into Gaussian scales and put together again with weights found by least squares (stacking: Wolpert 1992,
Breiman 1996), in which a tumour counts for more than its size. Of faint enhancement a share can be withheld.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from dsdiff.errors import ModelError

STYLE_MM, CHANGE_MM = (0.0, 1.0), (0.0, 1.0, 2.0, 4.0)  # standard deviations of the Gaussians
LIMIT = 6.0  # robust z-scores beyond which a voxel teaches no more
TUMOUR_SHARE = 0.3  # of what a patient teaches, where there is a tumour: about 0.07 of the voxels
FAINT = 2.5  # robust z-scores of enhancement, T1ce minus T1, from which on no more of it is withheld
REACH = 3.0  # standard deviations at which a Gaussian ends
Image = Float[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Refinement:
    """Weights of the style and of the change at `STYLE_MM` and `CHANGE_MM`, and the share of the first `FAINT` of
    enhancement that is withheld, which puts voxels in no other order of enhancement."""

    style: tuple[float, ...]
    change: tuple[float, ...]
    withheld: float = 0.0

    def __call__(self, image: Image, style: Image, t1: Image, brain: Mask, spacing: Spacing) -> Image:
        """The T1ce put together anew; all robust z-scores, zero outside the brain."""
        parts = scales(image, style, brain, spacing)
        made = sum(weight * part for weight, part in zip((*self.style, *self.change), parts, strict=True))
        return np.asarray(made - self.withheld * (made - t1).clip(0, FAINT) * brain, np.float32)

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Lesson:
    """What patients teach of the weights: the normal equations of least squares, patients weighing the same."""

    gram: Float[np.ndarray, "f f"]
    moment: Float[np.ndarray, " f"]

    def refinement(self, withheld: float = 0.0) -> Refinement:
        """The weights that fit best. Raises `numpy.linalg.LinAlgError` where nothing was learnt."""
        weights = np.linalg.solve(self.gram, self.moment).tolist()
        return Refinement(tuple(weights[: len(STYLE_MM)]), tuple(weights[len(STYLE_MM) :]), withheld)


def lesson(image: Image, style: Image, truth: Image, brain: Mask, tumour: Mask, spacing: Spacing) -> Lesson:
    """What one patient whom the network never saw teaches, by `TUMOUR_SHARE` of it in the tumour, if there is one."""
    held = [part[brain].clip(-LIMIT, LIMIT) for part in scales(image, style, brain, spacing)]
    parts = np.stack(held).astype(np.float64)
    inside, n = tumour[brain], int(tumour[brain].sum())
    weights = np.full(inside.size, 1 / inside.size)
    if 0 < n < inside.size:
        weights = np.where(inside, TUMOUR_SHARE / n, (1 - TUMOUR_SHARE) / (inside.size - n))
    weighed = parts * weights
    return Lesson(weighed @ parts.T, weighed @ truth[brain].clip(-LIMIT, LIMIT))


def together(lessons: Iterable[Lesson]) -> Lesson:
    """What all of them teach."""
    every = list(lessons)
    return Lesson(np.sum([one.gram for one in every], 0), np.sum([one.moment for one in every], 0))


def scales(image: Image, style: Image, brain: Mask, spacing: Spacing) -> list[Image]:
    """The style at `STYLE_MM`, then the change at `CHANGE_MM`: averages over the brain around, zero outside of it."""
    shares = {mm: _blurred(brain.astype(np.float32), mm, spacing) for mm in dict.fromkeys((*STYLE_MM, *CHANGE_MM))}
    wanted = [(style, mm) for mm in STYLE_MM] + [(image - style, mm) for mm in CHANGE_MM]
    average = partial(_average, brain=brain, shares=shares, spacing=spacing)
    with ThreadPoolExecutor(2) as pool:  # SciPy's filters let others go on
        return list(pool.map(average, *zip(*wanted, strict=True)))


def _average(image: Image, mm: float, brain: Mask, shares: dict[float, Image], spacing: Spacing) -> Image:
    return np.where(brain, _blurred(image, mm, spacing) / np.maximum(shares[mm], 1e-3), 0)


def _blurred(image: Image, mm: float, spacing: Spacing) -> Image:
    widths: Sequence[float] = [mm / size for size in spacing]
    return ndimage.gaussian_filter(image, widths, mode="constant", truncate=REACH) if mm else image


def parse(text: str, where: str) -> Refinement:
    """What `Refinement.dump` wrote. Raises `ModelError` for anything else."""
    try:
        held = json.loads(text)
        style, change = (tuple(float(weight) for weight in held[name]) for name in ("style", "change"))
        if (len(style), len(change)) != (len(STYLE_MM), len(CHANGE_MM)):
            raise ValueError(f"{len(style)} and {len(change)} weights")
        withheld = float(held.get("withheld", 0))
        if not 0 <= withheld < 1:
            raise ValueError(f"{withheld} withheld")
        return Refinement(style, change, withheld)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{where} does not say how its answer is put together ({error})") from error
