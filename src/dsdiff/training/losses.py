"""Losses of a prediction against the truth."""

from jaxtyping import Float, Integer
from torch import Tensor

from dsdiff.config import LossConfig


def charbonnier(error: Float[Tensor, "b 1 h w"], epsilon: float) -> Float[Tensor, "b 1 h w"]:
    """epsilon (sqrt(1 + (error / epsilon)^2) - 1): quadratic below epsilon, linear above.

    Source: Charbonnier et al. 1994, in the form of Barron 2019 (arXiv:1701.03077, eq. 1 with alpha 1).
    """
    return epsilon * ((1 + (error / epsilon).square()).sqrt() - 1)


def weighted(
    config: LossConfig,
    x_0: Float[Tensor, "b 1 h w"],
    truth: Float[Tensor, "b 1 h w"],
    region: Integer[Tensor, "b 1 h w"],
) -> Float[Tensor, ""]:
    """Mean over the crop of the Charbonnier error, each voxel weighted by its region (see `cohort.Patient`): 0 outside
    the brain. A plain mean, so that the parts of an accumulated batch add up to the whole."""
    weights = x_0.new_tensor([0.0, 1.0, config.tumour, config.enhancing])[region.long()]
    return (charbonnier(x_0 - truth, config.epsilon) * weights).mean()
