"""Losses that make shared features anatomy and specific features contrast. Whether they did, `dsdiff probe` measures.

They read the condition encoder's maps at every scale, and what a backbone returns of that kind in its features.
Every image's features are first divided by their own root mean square, and a denominator carries no gradient: no ratio
can be won by inflating one side. What should be far apart is pushed so only as far as `floor`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from dsdiff.errors import ConfigError
from dsdiff.schema import ConfigModel
from dsdiff.types import Condition, Prediction

PAIRS = {"common": "distinct", "content": "style"}  # features of backbones: what is shared -> what is specific
Scalar = Float[Tensor, ""]


class DisentangleConfig(ConfigModel):
    """One term. between_within: the distance ratio of DS-Diff; common_distinct: that of DisC-Diff; cross_covariance:
    correlation of shared with specific channels; swap: the error of contrasts rebuilt from others' shared maps.

    floor: the distance, of features of unit size, that is far enough (between_within and common_distinct).
    """

    target: Literal["between_within", "common_distinct", "cross_covariance", "swap"]
    weight: float = Field(0.1, gt=0)
    floor: float = Field(0.5, gt=0, le=2)


@dataclass(frozen=True)
class Codes:
    """Shared and specific features of every contrast (or stream) at one scale."""

    shared: Float[Tensor, "b s c h w"]
    specific: Float[Tensor, "b s c2 h w"]
    there: Bool[Tensor, "b s"]


def codes(cond: Condition, prediction: Prediction) -> list[Codes]:
    """All there are: the encoder's scale by scale, then a backbone's (whose first stream may be the noisy image)."""
    found = []
    if cond.encoded is not None:
        found = [Codes(*both, cond.present) for both in zip(cond.encoded.shared, cond.encoded.specific, strict=True)]
    for name, other in PAIRS.items():
        if name in prediction.features:
            shared, contrasts = prediction.features[name], cond.present.shape[1]
            noisy = cond.present.new_ones(len(shared), shared.shape[1] - contrasts)
            found.append(Codes(shared, prediction.features[other], torch.cat([noisy, cond.present], 1)))
    return found


def total(
    terms: Sequence[DisentangleConfig], cond: Condition, prediction: Prediction, decoder: nn.Module | None
) -> Scalar:
    """Weighted sum of the terms, each the mean over all codes. Raises `ConfigError` where there are none."""
    found = codes(cond, prediction)
    if not found:
        raise ConfigError(
            "conditioning.disentangle finds no shared and specific features: set conditioning.encoder, or take a "
            "backbone that returns them"
        )
    loss = cond.sources.new_zeros(())
    for term in terms:
        if term.target == "swap":
            assert decoder is not None
            loss = loss + term.weight * swap_error(decoder, cond)
        else:
            loss = loss + term.weight * torch.stack([_of(term, one) for one in found]).mean()
    return loss


def _of(term: DisentangleConfig, found: Codes) -> Scalar:
    if term.target == "cross_covariance":
        return cross_covariance(found)
    return (between_within if term.target == "between_within" else common_distinct)(found, term.floor)


def unit(features: Float[Tensor, "b s c h w"]) -> Float[Tensor, "b s c h w"]:
    """Features divided by their root mean square, image by image."""
    size = features.float().square().mean((2, 3, 4), keepdim=True)
    return features.float() / (size + 1e-8).sqrt()


def ratio(near: Scalar, far: Scalar, floor: float) -> Scalar:
    """near / far without gradient in far, plus what far lacks of the floor: 0 at best."""
    return near / far.detach().clamp(min=floor) + F.relu(floor - far) / floor


def common_distinct(found: Codes, floor: float) -> Scalar:
    """Squared distances between the contrasts of a slice: of the shared features over those of the specific ones.

    Source: the loss of Mao et al. 2023 (DisC-Diff, arXiv:2303.13933, eq. 5), kept from being won on one side.
    """
    shared, specific = unit(found.shared), unit(found.specific)
    near, far, count = [], [], []
    for i, j in combinations(range(shared.shape[1]), 2):
        both = (found.there[:, i] & found.there[:, j]).float()
        near.append(both * (shared[:, i] - shared[:, j]).square().mean((1, 2, 3)))
        far.append(both * (specific[:, i] - specific[:, j]).square().mean((1, 2, 3)))
        count.append(both)
    n = torch.stack(count).sum().clamp(min=1)
    return ratio(torch.stack(near).sum() / n, torch.stack(far).sum() / n, floor)


def between_within(found: Codes, floor: float) -> Scalar:
    """Absolute distances within a class over those between classes.

    Within: shared features of a slice's contrasts about their mean, and specific features of a contrast about their
    mean over the batch (averaged over the slice first: anatomies of different patients do not lie on one another).
    Between: shared and specific features of the same image, where they have as many channels.
    Source: the description of DS-Diff's L_dis (between- and within-class L1 distances).
    """
    shared, specific, there = unit(found.shared), unit(found.specific), found.there.float()
    n = there.sum().clamp(min=1)
    anatomy = _about_mean(shared, there, 1)
    contrast = _about_mean(specific.mean((3, 4), keepdim=True), there, 0)
    far = ((shared - specific).abs().mean((2, 3, 4)) * there).sum() / n
    return ratio((anatomy + contrast) / 2, far, floor)


def _about_mean(features: Float[Tensor, "b s c h w"], there: Float[Tensor, "b s"], dim: int) -> Scalar:
    """Mean absolute distance of the features that are there from their mean along an axis."""
    weights = there[:, :, None, None, None]
    middle = (features * weights).sum(dim, keepdim=True) / weights.sum(dim, keepdim=True).clamp(min=1)
    return ((features - middle).abs().mean((2, 3, 4)) * there).sum() / there.sum().clamp(min=1)


def cross_covariance(found: Codes) -> Scalar:
    """Mean square correlation of every shared with every specific channel, over pixels and images.

    Source: Cheung et al. 2014 (XCov, arXiv:1412.6583, eq. 3), of standardised channels: small features do not win.
    """
    one, other = (maps[found.there].float().movedim(1, -1).flatten(0, -2) for maps in (found.shared, found.specific))
    standard = [(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-6).sqrt() for x in (one, other)]  # pixels c
    with torch.autocast(one.device.type, enabled=False):  # a sum over all pixels is beyond fp16
        return (standard[0].T @ standard[1] / len(one)).square().mean()


class SwapDecoder(nn.Module):
    """A contrast's slice from the shared maps of any contrast and its own specific maps.

    Of the latter only the mean over the slice goes in, as scales and shifts: anatomy has to come from the shared maps.
    Source: the split into a content map and a style vector of Huang et al. 2018 (MUNIT, arXiv:1804.04732, section 3).
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
        scale, shift = self.film(specific.mean((2, 3)))[:, :, None, None].chunk(2, 1)
        return self.leave(self.enter(shared) * (1 + scale) + shift)


def swap_error(decoder: nn.Module, cond: Condition) -> Scalar:
    """Mean absolute error of every contrast rebuilt from every contrast's shared maps, where the image is not zero."""
    assert cond.encoded is not None
    shared, specific, there = cond.encoded.shared[0], cond.encoded.specific[0], cond.present
    truth = cond.known[:, :, cond.sources.shape[2] // 2]  # b s h w
    error, count = truth.new_zeros(()), truth.new_zeros(())
    for i in range(truth.shape[1]):
        for j in range(truth.shape[1]):
            both = (there[:, i] & there[:, j])[:, None, None] & (truth[:, j] != 0)
            made = decoder(shared[:, i], specific[:, j])[:, 0].float()
            error = error + ((made - truth[:, j]).abs() * both).sum()
            count = count + both.sum()
    return error / count.clamp(min=1)
