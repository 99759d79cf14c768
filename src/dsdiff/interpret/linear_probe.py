"""Is a model disentangled? A linear probe predicts the contrast from each code, and swapped codes are decoded.

A code summarizes the features of a slice. Shared features should describe the anatomy and not reveal its contrast;
specific features should reveal it.
"""

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
from dsdiff.io.cases import Case, load_volumes
from dsdiff.preprocessing import normalize, slices
from dsdiff.types import Condition, resize_maps

MAX_ABOVE_CHANCE = 0.15  # accuracy above chance up to which shared features do not reveal the contrast
MIN_ACCURACY = 0.9  # from which specific features reveal the contrast; also of swaps that change it
EDGE_FRACTION = 0.1  # of the brain's pixels that count as edges
MIN_EDGE_DICE = 0.5  # from which the anatomy is kept; random edges overlap by EDGE_FRACTION
RIDGE = 1e-2  # of the probe, per row
NOT_TRIED = "not tried"


@dataclass(frozen=True)
class Swap:
    """The shared features of one contrast decoded with the specific features of another.

    Attributes:
        changes_contrast: Whether the image is closer to the contrast of the specific features.
        edge_dice: Dice of its edges with those of the contrast of the shared features.
        acquired_edge_dice: The same Dice for the acquired image of the specific features' contrast.
    """

    changes_contrast: bool
    edge_dice: float
    acquired_edge_dice: float


@dataclass(frozen=True)
class ProbeCodes:
    """Codes of one patient's slices: means and standard deviations over the brain of every channel and scale.

    Attributes:
        name: Name of the case.
        shared: Codes of the anatomy.
        specific: Codes of the contrast's appearance.
        swaps: Decoded swaps; empty without a swap decoder.
        middle_cond: Condition of the middle slice, for the figure.
    """

    name: str
    shared: Float[np.ndarray, "n s e"]
    specific: Float[np.ndarray, "n s e"]
    swaps: list[Swap]
    middle_cond: Condition


@dataclass(frozen=True)
class ProbeResult:
    """Accuracies of the probe on patients that it was not trained on, and means over swaps.

    Attributes:
        patients: Number of patients.
        chance: Accuracy by chance.
        shared: Accuracy from shared codes.
        specific: Accuracy from specific codes.
        changes_contrast: Fraction of swaps that change the contrast; None without a swap decoder, like the next two.
        edge_dice: Mean of `Swap.edge_dice`.
        acquired_edge_dice: Mean of `Swap.acquired_edge_dice`.
    """

    patients: int
    chance: float
    shared: float
    specific: float
    changes_contrast: float | None
    edge_dice: float | None
    acquired_edge_dice: float | None

    @property
    def checks(self) -> dict[str, bool | None]:
        """Check what a disentangled model fulfils.

        Returns:
            Sentence -> whether it holds; None if it was not tried.
        """
        max_accuracy = self.chance + MAX_ABOVE_CHANCE
        shared = (
            "the shared features do not reveal the contrast: "
            f"accuracy {self.shared:.2f}, at most {max_accuracy:.2f} (chance {self.chance:.2f})"
        )
        specific = f"the specific features reveal the contrast: accuracy {self.specific:.2f}, at least {MIN_ACCURACY}"
        contrast = (
            "swapping specific features changes the contrast: "
            f"{_format(self.changes_contrast)} of swaps, at least {MIN_ACCURACY}"
        )
        anatomy = (
            f"swapping keeps the anatomy: overlap of edges (Dice) {_format(self.edge_dice)}, at least {MIN_EDGE_DICE} "
            f"(chance {EDGE_FRACTION}, acquired contrasts {_format(self.acquired_edge_dice)})"
        )
        return {
            shared: self.shared <= max_accuracy,
            specific: self.specific >= MIN_ACCURACY,
            contrast: None if self.changes_contrast is None else self.changes_contrast >= MIN_ACCURACY,
            anatomy: None if self.edge_dice is None else self.edge_dice >= MIN_EDGE_DICE,
        }

    @property
    def is_disentangled(self) -> bool:
        """Whether the model is disentangled.

        Returns:
            True if every check was tried and holds.
        """
        return all(self.checks.values())

    @property
    def verdict(self) -> str:
        """Summarize the checks.

        Returns:
            A phrase; "cannot tell" if no check failed but some were not tried.
        """
        if self.is_disentangled:
            return "disentangled"
        if False in self.checks.values():
            return "NOT disentangled"
        return "cannot tell: swaps were not tried"


def _format(value: float | None) -> str:
    return NOT_TRIED if value is None else f"{value:.2f}"


def evaluate_probe(codes: Sequence[ProbeCodes]) -> ProbeResult:
    """Train and test the probe on the codes of patients.

    Args:
        codes: Codes of two patients or more.

    Returns:
        The accuracies and the means over swaps.

    Raises:
        ConfigError: For fewer than two patients; the probe is tested on patients that it was not trained on.
    """
    if len(codes) < 2:
        raise ConfigError(f"a probe needs two patients or more; found {len(codes)}")
    swaps = [swap for patient in codes for swap in patient.swaps]
    return ProbeResult(
        patients=len(codes),
        chance=1 / codes[0].shared.shape[1],
        shared=linear_probe([patient.shared for patient in codes]),
        specific=linear_probe([patient.specific for patient in codes]),
        changes_contrast=_mean([swap.changes_contrast for swap in swaps]),
        edge_dice=_mean([swap.edge_dice for swap in swaps]),
        acquired_edge_dice=_mean([swap.acquired_edge_dice for swap in swaps]),
    )


def _mean(values: Sequence[float] | Sequence[bool]) -> float | None:
    return float(np.mean(values)) if values else None


def linear_probe(codes: Sequence[Float[np.ndarray, "_ s e"]]) -> float:
    """Measure how well a linear classifier predicts the contrast from codes.

    It is ridge regression on one-hot labels, in closed form, on standardized codes. It is trained on every second
    patient and tested on the others, and the reverse.

    Args:
        codes: Codes of each patient.

    Returns:
        Accuracy, 0 to 1.
    """
    is_correct: list[float] = []
    for first in (0, 1):
        train_x, train_y = _rows(codes[first::2])
        test_x, test_y = _rows(codes[1 - first :: 2])
        center, width = train_x.mean(0), train_x.std(0) + 1e-6
        train_x, test_x = (np.c_[(x - center) / width, np.ones(len(x))] for x in (train_x, test_x))

        ridge = RIDGE * len(train_x) * np.eye(train_x.shape[1])
        one_hot = np.eye(train_y.max() + 1)[train_y]
        weights = np.linalg.solve(train_x.T @ train_x + ridge, train_x.T @ one_hot)
        is_correct += list((test_x @ weights).argmax(1) == test_y)
    return float(np.mean(is_correct))


def _rows(codes: Sequence[np.ndarray]) -> tuple[Float[np.ndarray, "m e"], Integer[np.ndarray, " m"]]:
    """Codes of all slices and contrasts as rows, and the index of each row's contrast."""
    rows = np.concatenate([code.reshape(-1, code.shape[-1]) for code in codes]).astype(np.float64)
    labels = np.concatenate([np.tile(np.arange(code.shape[1]), code.shape[0]) for code in codes])
    return rows, labels


@torch.inference_mode()
def encode_case(case: Case, model: Model, n_slices: int = 8) -> ProbeCodes:
    """Encode slices of a case, evenly spaced over the middle four fifths of its brain.

    Args:
        case: The input files.
        model: A model with a condition encoder.
        n_slices: Number of slices.

    Returns:
        The codes of the slices.

    Raises:
        ConfigError: If the model has no encoder.
        UserError: If the case cannot be read.
    """
    conditioner, data = model.network.conditioner, model.config.data
    if conditioner.encoder is None:
        raise ConfigError(
            f"model {model.name} has no condition encoder (conditioning.encoder is none), so there are no codes to "
            "probe; take a model that was trained with one"
        )

    preprocessed = normalize.preprocess(load_volumes(case, model.contrasts), data.source_contrast).case
    boxes = slices.brain_boxes(preprocessed.brain, model.multiple)
    indices = np.linspace(0.1 * len(boxes), 0.9 * (len(boxes) - 1), n_slices).round().astype(int)
    contrast_stack = slices.stack_contrasts(preprocessed, model.contrasts)
    brain_stack = slices.stack_brain(preprocessed)

    shared, specific, swaps, conditions = [], [], [], []
    for index in indices:
        sources = torch.from_numpy(contrast_stack.take(boxes[index], data.context_slices)[None]).to(model.device)
        brain = torch.from_numpy(brain_stack.take(boxes[index], 1)).to(model.device)  # 1 1 h w
        present = torch.ones(1, len(model.contrasts), dtype=torch.bool, device=model.device)
        cond = conditioner(sources, present)
        shared.append(_summarize(cond.encoder_features.shared, brain))
        specific.append(_summarize(cond.encoder_features.specific, brain))
        swaps += _decode_swaps(cond, model, brain[0, 0])
        conditions.append(cond)
    return ProbeCodes(case.name, np.stack(shared), np.stack(specific), swaps, conditions[n_slices // 2])


def _summarize(scales: Sequence[Tensor], brain: Bool[Tensor, "1 1 h w"]) -> Float[np.ndarray, "s e"]:
    """Mean and standard deviation over the brain of every channel at every scale, for each contrast."""
    statistics = []
    for maps in scales:  # 1 s c _ _
        inside = resize_maps(brain.float(), (maps.shape[-2], maps.shape[-1]))[0, 0] > 0.5
        pixels = maps[0][:, :, inside] if inside.any() else maps[0].flatten(2)  # s c n
        statistics += [pixels.mean(2), pixels.std(2, unbiased=False)]
    return torch.cat(statistics, 1).float().cpu().numpy()


def _decode_swaps(cond: Condition, model: Model, brain: Bool[Tensor, "h w"]) -> list[Swap]:
    """Decode the shared features of every contrast with the specific features of every other."""
    if model.network.conditioner.decoder is None:
        return []
    images = cond.masked_sources[0, :, cond.sources.shape[2] // 2]  # s h w
    swaps = []
    for i, j in permutations(range(len(images)), 2):
        image = decode_swap(cond, model, i, j)
        distance_i = (image - images[i])[brain].abs().mean()
        distance_j = (image - images[j])[brain].abs().mean()
        swaps.append(
            Swap(
                changes_contrast=bool(distance_j < distance_i),
                edge_dice=dice(image, images[i], brain),
                acquired_edge_dice=dice(images[j], images[i], brain),
            )
        )
    return swaps


@torch.inference_mode()
def decode_swap(cond: Condition, model: Model, anatomy: int, appearance: int) -> Float[Tensor, "h w"]:
    """Decode the first slice of a condition with the features of two contrasts.

    Args:
        cond: Condition with encoder features.
        model: A model with a swap decoder.
        anatomy: Index of the contrast whose shared features are taken.
        appearance: Index of the contrast whose specific features are taken.

    Returns:
        Robust z-scores.
    """
    features, decoder = cond.encoder_features, model.network.conditioner.decoder
    assert features is not None and decoder is not None
    image = decoder(features.shared[0][:, anatomy], features.specific[0][:, appearance])  # 1 1 h w
    return image[0, 0].float()


def dice(image: Float[Tensor, "h w"], reference: Float[Tensor, "h w"], brain: Bool[Tensor, "h w"]) -> float:
    """Measure the overlap of the strongest edges of two images.

    Args:
        image: One image.
        reference: The other.
        brain: Brain mask.

    Returns:
        Dice of their edges, which are `EDGE_FRACTION` of the brain's pixels each.
    """
    a, b = _strongest_edges(image, brain), _strongest_edges(reference, brain)
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def _strongest_edges(image: Float[Tensor, "h w"], brain: Bool[Tensor, "h w"]) -> Bool[Tensor, " n"]:
    strength = sobel(image[None, None])[0, 0][brain]
    return strength >= strength.quantile(1 - EDGE_FRACTION)
