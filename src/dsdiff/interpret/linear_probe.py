"""Is a run disentangled? Whether a linear probe tells the contrast from each code, and what swapped codes look like."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from dsdiff.conditioning.edges import sobel
from dsdiff.errors import ConfigError
from dsdiff.inference.model import Model
from dsdiff.io import cases
from dsdiff.io.cases import Case
from dsdiff.preprocessing import normalize, slices
from dsdiff.types import Condition, resized

ABOVE_CHANCE, ENOUGH = 0.15, 0.9  # a code is blind to the contrast below chance + the first, tells it above the second
OVERLAP = 0.5  # Dice of edges above which anatomy is kept; EDGES of the brain at random overlap by EDGES
EDGES = 0.1  # of the brain's pixels, how many count as edges


@dataclass(frozen=True)
class Seen:
    """What the encoder made of one patient's slices. Codes: means and SDs over the brain of every channel and scale."""

    name: str
    shared: Float[np.ndarray, "n s e"]
    specific: Float[np.ndarray, "n s e"]
    swaps: list["Swap"]
    middle: Condition  # of the slice in the middle, for the picture


@dataclass(frozen=True)
class Swap:
    """One contrast's shared with another's specific code. closer: the image is nearer to the other than to the one.

    edges: Dice of its edges with the first's. real_edges: the same for the other contrast as it was acquired.
    """

    closer: bool
    edges: float
    real_edges: float


@dataclass(frozen=True)
class Verdict:
    """Accuracies of the probe on patients that it did not see, and means over swaps (None without a decoder)."""

    patients: int
    chance: float
    shared: float
    specific: float
    closer: float | None
    edges: float | None
    real_edges: float | None

    @property
    def checks(self) -> dict[str, bool | None]:
        """What a disentangled run passes, in words; None where it could not be tried."""
        blind = self.chance + ABOVE_CHANCE
        shared = f"accuracy {self.shared:.2f}, at most {blind:.2f} (chance {self.chance:.2f})"
        edges = f"{_said(self.edges)}, at least {OVERLAP} (chance {EDGES}, acquired contrasts {_said(self.real_edges)})"
        return {
            f"the shared code does not tell the contrast: {shared}": self.shared <= blind,
            f"the specific code does: accuracy {self.specific:.2f}, at least {ENOUGH}": self.specific >= ENOUGH,
            f"swapping specific codes changes the contrast: {_said(self.closer)} of swaps, at least {ENOUGH}": (
                None if self.closer is None else self.closer >= ENOUGH
            ),
            f"and keeps the anatomy: overlap of edges (Dice) {edges}": (
                None if self.edges is None else self.edges >= OVERLAP
            ),
        }

    @property
    def disentangled(self) -> bool:
        """Whether every check could be tried and was passed."""
        return all(self.checks.values())

    @property
    def word(self) -> str:
        """The verdict: where nothing failed but something was not tried, nobody can tell."""
        if self.disentangled:
            return "disentangled"
        return "NOT disentangled" if False in self.checks.values() else "cannot tell: swaps were not tried"


def _said(value: float | None) -> str:
    return "not tried" if value is None else f"{value:.2f}"


def judge(seen: Sequence[Seen]) -> Verdict:
    """The verdict over patients. Raises `ConfigError` for fewer than two: the probe is tried on others than it saw."""
    if len(seen) < 2:
        raise ConfigError(f"a probe needs two patients or more; there is {len(seen)}")
    swaps = [swap for one in seen for swap in one.swaps]
    means = [float(np.mean([getattr(s, name) for s in swaps])) if swaps else None for name in Swap.__annotations__]
    n_contrasts = seen[0].shared.shape[1]
    accuracies = [linear_probe([getattr(one, name) for one in seen]) for name in ("shared", "specific")]
    return Verdict(len(seen), 1 / n_contrasts, *accuracies, *means)


def linear_probe(codes: Sequence[Float[np.ndarray, "_ s e"]]) -> float:
    """Accuracy of a linear classifier of the contrast, learnt on every other patient and tried on the rest, both ways.

    The classifier is ridge regression on one-hot labels, in closed form, on standardised codes.
    """
    right: list[float] = []
    for first in (0, 1):
        x, y = _rows(codes[first::2])
        tried, truth = _rows(codes[1 - first :: 2])
        centre, width = x.mean(0), x.std(0) + 1e-6
        x, tried = (np.c_[(rows - centre) / width, np.ones(len(rows))] for rows in (x, tried))
        weights = np.linalg.solve(x.T @ x + 1e-2 * len(x) * np.eye(x.shape[1]), x.T @ np.eye(y.max() + 1)[y])
        right += list((tried @ weights).argmax(1) == truth)
    return float(np.mean(right))


def _rows(codes: Sequence[np.ndarray]) -> tuple[Float[np.ndarray, "m e"], Integer[np.ndarray, " m"]]:
    """Codes of all slices and contrasts, and which contrast each is of."""
    rows = np.concatenate([one.reshape(-1, one.shape[-1]) for one in codes]).astype(np.float64)
    return rows, np.concatenate([np.tile(np.arange(one.shape[1]), one.shape[0]) for one in codes])


@torch.inference_mode()
def look(case: Case, model: Model, n_slices: int = 8) -> Seen:
    """Encode slices of a case, evenly from the middle four fifths of its brain. Raises what reading raises.

    Raises `ConfigError` where the model has no encoder.
    """
    conditioner, data = model.network.conditioner, model.config.data
    if conditioner.encoder is None:
        raise ConfigError(
            f"model {model.name} has no condition encoder (conditioning.encoder is none): nothing to probe"
        )
    prepared = normalize.apply(cases.load(case, model.contrasts), data.source_contrast)
    boxes = slices.boxes(prepared.brain, model.multiple)
    chosen = np.linspace(0.1 * len(boxes), 0.9 * (len(boxes) - 1), n_slices).round().astype(int)
    stacked, brain = slices.stack(prepared, model.contrasts), slices.mask(prepared)
    shared, specific, swaps, conditions = [], [], [], []
    for index in chosen:
        sources = torch.from_numpy(stacked.take(boxes[index], data.context_slices)[None]).to(model.device)
        inside = torch.from_numpy(brain.take(boxes[index], 1)).to(model.device)  # 1 1 h w
        cond = conditioner(sources, torch.ones(1, len(model.contrasts), dtype=torch.bool, device=model.device))
        shared.append(_summary(cond.encoded.shared, inside))
        specific.append(_summary(cond.encoded.specific, inside))
        swaps += _swapped(cond, model, inside[0, 0])
        conditions.append(cond)
    return Seen(case.name, np.stack(shared), np.stack(specific), swaps, conditions[n_slices // 2])


def _summary(scales: Sequence[Tensor], brain: Bool[Tensor, "1 1 h w"]) -> Float[np.ndarray, "s e"]:
    """Mean and SD over the brain of every channel at every scale, contrast by contrast."""
    told = []
    for maps in scales:
        inside = resized(brain.float(), (maps.shape[-2], maps.shape[-1]))[0, 0] > 0.5
        pixels = maps[0][:, :, inside] if inside.any() else maps[0].flatten(2)  # s c n
        told += [pixels.mean(2), pixels.std(2, unbiased=False)]
    return torch.cat(told, 1).float().cpu().numpy()


def _swapped(cond: Condition, model: Model, brain: Bool[Tensor, "h w"]) -> list[Swap]:
    """Every contrast's shared code with every other's specific one."""
    if model.network.conditioner.decoder is None:
        return []
    images = cond.known[0, :, cond.sources.shape[2] // 2]  # s h w
    found = []
    for i, j in permutations(range(len(images)), 2):
        made = rebuilt(cond, model, i, j)
        to_i, to_j = ((made - images[k])[brain].abs().mean() for k in (i, j))
        overlap, real = (dice(image, images[i], brain) for image in (made, images[j]))
        found.append(Swap(bool(to_j < to_i), overlap, real))
    return found


@torch.inference_mode()
def rebuilt(cond: Condition, model: Model, i: int, j: int) -> Float[Tensor, "h w"]:
    """The first slice with the anatomy that contrast i tells and the looks of contrast j."""
    assert cond.encoded is not None and model.network.conditioner.decoder is not None
    made = model.network.conditioner.decoder(cond.encoded.shared[0][:, i], cond.encoded.specific[0][:, j])
    return made[0, 0].float()


def dice(one: Float[Tensor, "h w"], other: Float[Tensor, "h w"], brain: Bool[Tensor, "h w"]) -> float:
    """Overlap of the strongest edges of two images in the brain: EDGES of its pixels each."""
    found = []
    for image in (one, other):
        strength = sobel(image[None, None])[0, 0][brain]
        found.append(strength >= strength.quantile(1 - EDGES))
    return float(2 * (found[0] & found[1]).sum() / (found[0].sum() + found[1].sum()))
