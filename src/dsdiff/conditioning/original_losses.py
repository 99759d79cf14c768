"""The disentanglement losses of DS-Diff and DisC-Diff as their trainers compute them.

Features are not scaled, and both sides of a ratio carry gradient. A network can therefore reduce them by inflating
one side; the losses of `conditioning.disentangle` prevent that.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dsdiff.types import FeaturePair, StreamFeatures

Scalar = Float[Tensor, ""]
MIN_DISTANCE = 1e-12


def content_style_loss(pair: FeaturePair) -> Scalar:
    """Compare distances within classes with distances between classes: content and style.

    A class is the content of one slice (all its contrasts), or the style of one contrast (all slices of the batch).

    Args:
        pair: Content as shared and style as specific features, with equally many channels.

    Returns:
        The ratio of sums of L1 distances.

    Source: the content-style term of DS-Diff's L_dis.
    """
    content = StreamFeatures(pair.shared, pair.present)
    style = StreamFeatures(pair.specific, pair.present)
    classes = [_class_per_slice(content, 0), _class_per_contrast(style)]
    return class_distance_ratio([content, style], classes)


def anatomy_lesion_loss(pair: FeaturePair) -> Scalar:
    """Compare distances within classes with distances between classes: style, anatomy and lesion.

    A class is the style of one contrast (all slices of the batch), the anatomy of one slice, or its lesion.

    Args:
        pair: Features with those of an anatomy head and of a lesion head.

    Returns:
        The ratio of sums of L1 distances.

    Source: the style-anatomy-lesion term of DS-Diff's L_dis.
    """
    assert pair.anatomy is not None
    assert pair.lesion is not None
    style = StreamFeatures(pair.specific, pair.present)
    n_slices = pair.present.shape[0]
    classes = [
        _class_per_contrast(style),
        _class_per_slice(pair.anatomy, 0),
        _class_per_slice(pair.lesion, n_slices),
    ]
    return class_distance_ratio([style, pair.anatomy, pair.lesion], classes)


def common_over_distinct_loss(pair: FeaturePair) -> Scalar:
    """Compare streams of a slice: squared distances of shared features over those of specific features.

    Args:
        pair: Features of every stream.

    Returns:
        The ratio of sums over all pairs of streams, averaged over the batch.

    Source: Mao et al. 2023 (DisC-Diff, arXiv:2303.13933, eq. 5).
    """
    shared, specific = pair.shared.float(), pair.specific.float()

    shared_distances, specific_distances = [], []
    for i, j in combinations(range(shared.shape[1]), 2):
        both_present = (pair.present[:, i] & pair.present[:, j]).float()  # b
        shared_distances.append(both_present * (shared[:, i] - shared[:, j]).square().mean((1, 2, 3)))
        specific_distances.append(both_present * (specific[:, i] - specific[:, j]).square().mean((1, 2, 3)))

    shared_distance = torch.stack(shared_distances).sum(0)  # b
    specific_distance = torch.stack(specific_distances).sum(0)
    return (shared_distance / specific_distance.clamp(min=MIN_DISTANCE)).mean()


def class_distance_ratio(features: Sequence[StreamFeatures], classes: Sequence[Int[Tensor, "b _"]]) -> Scalar:
    """Divide the sum of distances within classes by the sum of distances between classes.

    Args:
        features: Features of several heads, with equally many values per image.
        classes: The class of every image, for each head. Images of absent contrasts do not count.

    Returns:
        The ratio of sums of mean absolute differences over all pairs of images.
    """
    rows = [head.features[head.present].float().flatten(1) for head in features]  # n (c h w)
    labels = [label[head.present] for label, head in zip(classes, features, strict=True)]  # n
    flat_rows, flat_labels = torch.cat(rows), torch.cat(labels)

    with torch.autocast(flat_rows.device.type, enabled=False):  # a sum over all values overflows fp16
        distances = torch.cdist(flat_rows, flat_rows, p=1) / flat_rows.shape[1]  # n n
    same_class = flat_labels[:, None] == flat_labels  # n n, the distance of an image to itself is 0
    within, between = distances[same_class].sum(), distances[~same_class].sum()
    return within / between.clamp(min=MIN_DISTANCE)


def _class_per_slice(features: StreamFeatures, first_class: int) -> Int[Tensor, "b s"]:
    """One class for each slice of the batch: `first_class`, `first_class` + 1, and so on."""
    n_slices = features.present.shape[0]
    classes = torch.arange(first_class, first_class + n_slices, device=features.present.device)
    return classes[:, None].expand(features.present.shape)


def _class_per_contrast(features: StreamFeatures) -> Int[Tensor, "b s"]:
    """One class for each contrast: -1, -2, and so on."""
    n_contrasts = features.present.shape[1]
    classes = -1 - torch.arange(n_contrasts, device=features.present.device)
    return classes.expand(features.present.shape)
