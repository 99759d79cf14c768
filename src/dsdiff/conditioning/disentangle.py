"""Disentanglement losses: shared features should describe anatomy, specific features should describe contrast.

`dsdiff probe` measures whether they do. The losses read the features of the condition encoder at every scale, and the
feature pairs that a backbone returns. Features of every image are divided by their own root mean square, and
denominators carry no gradient, so a network cannot reduce a ratio by inflating one side. Distances that should be large
are pushed only up to `floor`. The terms of `conditioning.original_losses` have neither protection.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from dsdiff.conditioning.original_losses import anatomy_lesion_loss, common_over_distinct_loss, content_style_loss
from dsdiff.errors import ConfigError
from dsdiff.schema import ConfigModel
from dsdiff.types import Condition, FeaturePair, Prediction

Scalar = Float[Tensor, ""]


class DisentangleConfig(ConfigModel):
    """One term of the disentanglement loss.

    Attributes:
        target: "between_within": the distance ratio of DS-Diff. "common_distinct": that of DisC-Diff.
            "cross_covariance": correlation of shared with specific channels. "swap": error of contrasts that are
            rebuilt from the shared features of other contrasts. "content_style" and "anatomy_lesion": the two terms of
            DS-Diff as its trainer computes them. "common_over_distinct": the ratio of DisC-Diff as its trainer
            computes it.
        weight: Weight of the term in the sum.
        floor: The distance, between features of unit size, that is large enough. For between_within and
            common_distinct.
    """

    target: Literal[
        "between_within",
        "common_distinct",
        "cross_covariance",
        "swap",
        "content_style",
        "anatomy_lesion",
        "common_over_distinct",
    ]
    weight: float = Field(0.1, gt=0)
    floor: float = Field(0.5, gt=0, le=2)


def feature_pairs(cond: Condition, prediction: Prediction) -> list[FeaturePair]:
    """Collect the feature pairs of the condition encoder and of the backbone.

    Args:
        cond: The condition.
        prediction: The output of the backbone.

    Returns:
        Those of the encoder scale by scale, then those of the backbone.
    """
    pairs = []
    if cond.encoder_features is not None:
        features = cond.encoder_features
        for shared, specific in zip(features.shared, features.specific, strict=True):
            pairs.append(FeaturePair(shared, specific, cond.present))
    return [*pairs, *prediction.features]


def weighted_disentangle_loss(
    terms: Sequence[DisentangleConfig], cond: Condition, prediction: Prediction, decoder: nn.Module | None
) -> Scalar:
    """Add up the terms of the loss, each the mean over all feature pairs.

    Args:
        terms: The terms with their weights.
        cond: The condition.
        prediction: The output of the backbone.
        decoder: A `SwapDecoder`; needed for the target "swap".

    Returns:
        The weighted sum.

    Raises:
        ConfigError: There are no feature pairs, or a term needs features of an anatomy and a lesion head.
    """
    pairs = feature_pairs(cond, prediction)
    if not pairs:
        raise ConfigError(
            "conditioning.disentangle needs shared and specific features, and there are none: "
            "set conditioning.encoder, or take a backbone that returns them"
        )

    loss = cond.sources.new_zeros(())
    for term in terms:
        if term.target == "swap":
            assert decoder is not None
            loss = loss + term.weight * swap_loss(decoder, cond)
        else:
            pair_losses = [_pair_loss(term, pair) for pair in _pairs_of_term(term, pairs)]
            loss = loss + term.weight * torch.stack(pair_losses).mean()
    return loss


def _pairs_of_term(term: DisentangleConfig, pairs: Sequence[FeaturePair]) -> Sequence[FeaturePair]:
    """The pairs on which a term acts: for "anatomy_lesion" those with features of both heads."""
    if term.target != "anatomy_lesion":
        return pairs

    lesion_pairs = [pair for pair in pairs if pair.anatomy is not None and pair.lesion is not None]
    if not lesion_pairs:
        raise ConfigError(
            "conditioning.disentangle target 'anatomy_lesion' needs features of an anatomy head and of a lesion head, "
            "and the backbone has none: take ds_unet, or remove the term"
        )
    return lesion_pairs


def _pair_loss(term: DisentangleConfig, pair: FeaturePair) -> Scalar:
    if term.target in PLAIN_LOSSES:
        return PLAIN_LOSSES[term.target](pair)
    return RATIO_LOSSES[term.target](pair, term.floor)


def unit_rms(features: Float[Tensor, "b s c h w"]) -> Float[Tensor, "b s c h w"]:
    """Divide features by their root mean square, image by image.

    Args:
        features: Features of every contrast.

    Returns:
        float32 features with a root mean square of 1 per image.
    """
    mean_square = features.float().square().mean((2, 3, 4), keepdim=True)
    return features.float() / (mean_square + 1e-8).sqrt()


def distance_ratio(small_distance: Scalar, large_distance: Scalar, floor: float) -> Scalar:
    """Compute a ratio without gradient in its denominator, plus the share that the denominator lacks to the floor.

    Args:
        small_distance: The distance to reduce.
        large_distance: The distance to enlarge.
        floor: The value up to which `large_distance` is enlarged.

    Returns:
        A loss of at least 0.
    """
    return small_distance / large_distance.detach().clamp(min=floor) + F.relu(floor - large_distance) / floor


def common_distinct_loss(pair: FeaturePair, floor: float) -> Scalar:
    """Compare contrasts of a slice: distances of shared features over distances of specific features.

    Args:
        pair: Features of every contrast.
        floor: See `distance_ratio`.

    Returns:
        The ratio of mean squared distances.

    Source: the loss of Mao et al. 2023 (DisC-Diff, arXiv:2303.13933, eq. 5), protected against inflation of one side.
    """
    shared, specific = unit_rms(pair.shared), unit_rms(pair.specific)

    shared_distances, specific_distances, counts = [], [], []
    for i, j in combinations(range(shared.shape[1]), 2):
        both_present = (pair.present[:, i] & pair.present[:, j]).float()  # b
        shared_distances.append(both_present * (shared[:, i] - shared[:, j]).square().mean((1, 2, 3)))
        specific_distances.append(both_present * (specific[:, i] - specific[:, j]).square().mean((1, 2, 3)))
        counts.append(both_present)

    n_pairs = torch.stack(counts).sum().clamp(min=1)
    shared_distance = torch.stack(shared_distances).sum() / n_pairs
    specific_distance = torch.stack(specific_distances).sum() / n_pairs
    return distance_ratio(shared_distance, specific_distance, floor)


def between_within_loss(pair: FeaturePair, floor: float) -> Scalar:
    """Compare absolute distances within a class with those between classes.

    Within: shared features of a slice's contrasts around their mean, and specific features of a contrast around their
    mean over the batch. The latter are averaged over the slice first, because the anatomies of different patients do
    not overlap. Between: shared and specific features of the same image.

    Args:
        pair: Features of every contrast, with as many shared as specific channels.
        floor: See `distance_ratio`.

    Returns:
        The ratio of mean absolute distances.

    Source: the description of DS-Diff's L_dis (between- and within-class L1 distances).
    """
    shared, specific, present = unit_rms(pair.shared), unit_rms(pair.specific), pair.present.float()
    n_images = present.sum().clamp(min=1)

    anatomy_distance = _distance_to_mean(shared, present, 1)
    contrast_distance = _distance_to_mean(specific.mean((3, 4), keepdim=True), present, 0)
    between_distance = ((shared - specific).abs().mean((2, 3, 4)) * present).sum() / n_images

    return distance_ratio((anatomy_distance + contrast_distance) / 2, between_distance, floor)


def _distance_to_mean(features: Float[Tensor, "b s c h w"], present: Float[Tensor, "b s"], dim: int) -> Scalar:
    """Mean absolute distance of the features of present contrasts to their mean along an axis."""
    weights = present[:, :, None, None, None]
    mean = (features * weights).sum(dim, keepdim=True) / weights.sum(dim, keepdim=True).clamp(min=1)
    return ((features - mean).abs().mean((2, 3, 4)) * present).sum() / present.sum().clamp(min=1)


def cross_covariance_loss(pair: FeaturePair) -> Scalar:
    """Compute the mean square correlation of every shared with every specific channel, over pixels and images.

    Channels are standardized, so a network cannot reduce the loss by small features.

    Args:
        pair: Features of every contrast.

    Returns:
        A number between 0 and 1.

    Source: Cheung et al. 2014 (XCov, arXiv:1412.6583, eq. 3).
    """
    shared = _standardize_pixels(pair.shared, pair.present)  # n c
    specific = _standardize_pixels(pair.specific, pair.present)  # n c2
    with torch.autocast(shared.device.type, enabled=False):  # a sum over all pixels overflows fp16
        return (shared.T @ specific / len(shared)).square().mean()


def _standardize_pixels(features: Float[Tensor, "b s c h w"], present: Bool[Tensor, "b s"]) -> Float[Tensor, "n c"]:
    """The pixels of all present contrasts, every channel with mean 0 and variance 1."""
    pixels = features[present].float().movedim(1, -1).flatten(0, -2)  # n c
    return (pixels - pixels.mean(0)) / (pixels.var(0, unbiased=False) + 1e-6).sqrt()


RATIO_LOSSES: dict[str, Callable[[FeaturePair, float], Scalar]] = {
    "between_within": between_within_loss,
    "common_distinct": common_distinct_loss,
}
PLAIN_LOSSES: dict[str, Callable[[FeaturePair], Scalar]] = {
    "cross_covariance": cross_covariance_loss,
    "content_style": content_style_loss,
    "anatomy_lesion": anatomy_lesion_loss,
    "common_over_distinct": common_over_distinct_loss,
}


class SwapDecoder(nn.Module):
    """Rebuilds the slice of one contrast from shared features of any contrast and its own specific features.

    Of the specific features only the mean over the slice enters, as scales and shifts. Anatomy therefore has to come
    from the shared features.
    Source: the split into a content map and a style vector of Huang et al. 2018 (MUNIT, arXiv:1804.04732, section 3).

    Args:
        channels: Channels of shared and of specific features.
        stem: See `encoder.EncoderParams`.
        hidden: Hidden channels.
    """

    def __init__(self, channels: int, stem: int, hidden: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, hidden, 3, padding=1)
        self.film = nn.Linear(channels, 2 * hidden)
        self.leave = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden, stem**2, 3, padding=1),
            nn.PixelShuffle(stem),
        )

    def forward(
        self, shared: Float[Tensor, "b c h w"], specific: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b 1 h2 w2"]:
        """Rebuild slices.

        Args:
            shared: Features that give the anatomy.
            specific: Features that give the contrast.

        Returns:
            The slices, robust z-scores.
        """
        scale, shift = self.film(specific.mean((2, 3)))[:, :, None, None].chunk(2, 1)  # b hidden 1 1
        return self.leave(self.enter(shared) * (1 + scale) + shift)


def swap_loss(decoder: nn.Module, cond: Condition) -> Scalar:
    """Rebuild every contrast from the shared features of every contrast and compare it with the acquired image.

    Args:
        decoder: A `SwapDecoder`.
        cond: A condition with encoder features.

    Returns:
        The mean absolute error over pixels that are not zero.
    """
    assert cond.encoder_features is not None
    shared, specific = cond.encoder_features.shared[0], cond.encoder_features.specific[0]
    images = cond.masked_sources[:, :, cond.sources.shape[2] // 2]  # b s h w

    error, n_pixels = images.new_zeros(()), images.new_zeros(())
    for i in range(images.shape[1]):
        for j in range(images.shape[1]):
            both_present = (cond.present[:, i] & cond.present[:, j])[:, None, None]  # b 1 1
            mask = both_present & (images[:, j] != 0)  # b h w
            rebuilt = decoder(shared[:, i], specific[:, j])[:, 0].float()
            error = error + ((rebuilt - images[:, j]).abs() * mask).sum()
            n_pixels = n_pixels + mask.sum()
    return error / n_pixels.clamp(min=1)
