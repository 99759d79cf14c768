"""Losses: error maps, voxel by voxel, which are weighted by region and summed over terms.

A loss is a function of `LossInputs` and of its `LossConfig`, and stands in `LOSSES` under the name that a config gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from dsdiff.conditioning.edges import sobel_gradients
from dsdiff.config.training import LossConfig
from dsdiff.data.dataset import ENHANCING

DATA_RANGE = 10.0  # robust z-scores that a T1ce spans, for the constants of SSIM
N_ENHANCING = 32  # enhancing voxels that the ranking loss compares every other voxel of a slice with
ImageBatch = Float[Tensor, "b 1 h w"]


@dataclass(frozen=True)
class LossInputs:
    """Predictions of a batch of slices with their targets.

    Attributes:
        prediction: Output of the network, in the parametrization of the process.
        prediction_target: What `prediction` should be.
        x_0_pred: The T1ce that `prediction` implies, robust z-scores.
        x_0: The true T1ce, robust z-scores.
        source: The source image (by default T1), robust z-scores.
        region: Region map, see `data.dataset.Slices`.
    """

    prediction: ImageBatch
    prediction_target: ImageBatch
    x_0_pred: ImageBatch
    x_0: ImageBatch
    source: ImageBatch
    region: Integer[Tensor, "b 1 h w"]

    @property
    def brain(self) -> Bool[Tensor, "b 1 h w"]:
        """The brain mask.

        Returns:
            True inside the brain.
        """
        return self.region > 0

    @property
    def enhancing(self) -> Bool[Tensor, "b 1 h w"]:
        """The mask of enhancing tumour.

        Returns:
            True inside enhancing tumour; all False without a segmentation.
        """
        return self.region == ENHANCING

    def mask_background(self) -> "LossInputs":
        """Set images outside the brain to zero, as synthesis does.

        Returns:
            The inputs with masked `x_0_pred`, `x_0` and `source`.
        """
        return replace(
            self,
            x_0_pred=self.x_0_pred * self.brain,
            x_0=self.x_0 * self.brain,
            source=self.source * self.brain,
        )


def charbonnier_loss(error: ImageBatch, epsilon: float) -> ImageBatch:
    """Compute epsilon (sqrt(1 + (error / epsilon)^2) - 1): quadratic below epsilon, linear above.

    Args:
        error: Differences between prediction and target.
        epsilon: The error at which the loss turns linear.

    Returns:
        The loss of every voxel.

    Source: Charbonnier et al. 1994, in the form of Barron 2019 (arXiv:1701.03077, eq. 1 with alpha 1).
    """
    return epsilon * ((1 + (error / epsilon).square()).sqrt() - 1)


def gradient_loss(error: ImageBatch) -> ImageBatch:
    """Add absolute differences of the error to the next voxel along h and along w. Blur and false edges cost.

    Args:
        error: Differences between two images.

    Returns:
        The loss of every voxel.
    """
    along_h = F.pad((error[:, :, 1:] - error[:, :, :-1]).abs(), (0, 0, 0, 1))
    return along_h + F.pad((error[..., 1:] - error[..., :-1]).abs(), (0, 1))


def ssim_loss(x: ImageBatch, y: ImageBatch) -> ImageBatch:
    """Compute 1 - SSIM with Gaussian windows of 1.5 voxels, truncated at 5 voxels; images are zero beyond the border.

    Args:
        x: Images, robust z-scores.
        y: Images to compare with.

    Returns:
        The loss of every voxel, 0 to 2.

    Source: Wang et al. 2004 (doi:10.1109/TIP.2003.819861), eq. 13, K1 0.01, K2 0.03, population covariance.
    """
    taps = torch.exp(-torch.arange(-5.0, 6.0, device=x.device, dtype=x.dtype).square() / (2 * 1.5**2))
    taps = taps / taps.sum()

    def blur(image: ImageBatch) -> ImageBatch:
        along_h = F.conv2d(image, taps[None, None, :, None], padding=(5, 0))
        return F.conv2d(along_h, taps[None, None, None], padding=(0, 5))

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y

    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return 1 - similarity / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))


def ngf_loss(x: ImageBatch, y: ImageBatch, eta: float = 0.2) -> ImageBatch:
    """Compute 1 - the squared cosine between the gradients of two images (normalized gradient fields).

    It is 0 where edges have the same direction, whatever their sign and height.

    Args:
        x: Images.
        y: Images to compare with.
        eta: Gradient (per pixel) far below which an edge counts as none.

    Returns:
        The loss of every voxel, 0 to 1.

    Source: Haber and Modersitzki 2006 (normalized gradient fields, doi:10.1007/11866763_89, eq. 6).
    """
    gradient_x, gradient_y = sobel_gradients(x), sobel_gradients(y)  # 2 b 1 h w
    norm_x = gradient_x.square().sum(0) + eta**2
    norm_y = gradient_y.square().sum(0) + eta**2
    return 1 - (gradient_x * gradient_y).sum(0).square() / (norm_x * norm_y)


def ranking_loss(
    enhancement_pred: ImageBatch, enhancement: ImageBatch, enhancing: Bool[Tensor, "b 1 h w"]
) -> ImageBatch:
    """Compare the predicted enhancement of every voxel with that of enhancing tumour, a smooth stand-in for 1 - AUC.

    The loss of a voxel is the mean of softplus(its enhancement - enhancement of a tumour voxel) over some tumour voxels
    whose true enhancement is higher. Tumour voxels are of the same slice. If the slice has none, they are of the batch,
    because most of a brain lies in such slices.

    Args:
        enhancement_pred: Predicted T1ce minus source.
        enhancement: True T1ce minus source.
        enhancing: Mask of enhancing tumour.

    Returns:
        The loss of every voxel; zero within enhancing tumour.

    Source: the pairwise logistic loss of Burges et al. 2005 (RankNet, doi:10.1145/1102351.1102363, eq. 3).
    """
    batch_voxels = enhancing.flatten().nonzero()[:, 0]
    if not len(batch_voxels):
        return enhancement_pred * 0  # zero with a gradient

    loss_maps = []
    for i, slice_mask in enumerate(enhancing):
        slice_voxels = slice_mask.flatten().nonzero()[:, 0] + i * slice_mask.numel()
        candidates = slice_voxels if len(slice_voxels) else batch_voxels
        chosen = torch.linspace(0, len(candidates) - 1, N_ENHANCING, device=enhancement_pred.device).long()
        tumour_voxels = candidates[chosen]

        margin = enhancement_pred[i] - enhancement_pred.flatten()[tumour_voxels, None, None]  # k h w
        is_lower = enhancement[i] < enhancement.flatten()[tumour_voxels, None, None]  # k h w
        loss_map_of_slice = (F.softplus(margin) * is_lower).mean(0, keepdim=True)  # 1 h w
        loss_maps.append(loss_map_of_slice * ~slice_mask)
    return torch.stack(loss_maps)


def laplace_nll(x_0_pred: ImageBatch, x_0: ImageBatch, predicted_error: ImageBatch) -> ImageBatch:
    """Compute the negative log-likelihood of a Laplace distribution around the predicted T1ce.

    The predicted T1ce gets no gradient: the other terms train it. The layers below are shared.

    Args:
        x_0_pred: The predicted T1ce.
        x_0: The true T1ce.
        predicted_error: The mean absolute error that the network predicts for itself.

    Returns:
        The loss of every voxel.

    Source: the attenuated loss of Kendall and Gal 2017 (arXiv:1703.04977, section 3), with the absolute norm.
    """
    return (x_0_pred.detach() - x_0).abs() / predicted_error + predicted_error.log()


def _charbonnier(inputs: LossInputs, term: LossConfig) -> ImageBatch:
    assert term.epsilon is not None
    return charbonnier_loss(inputs.prediction - inputs.prediction_target, term.epsilon)


def _l1(inputs: LossInputs, term: LossConfig) -> ImageBatch:
    return (inputs.prediction - inputs.prediction_target).abs()


def _l2(inputs: LossInputs, term: LossConfig) -> ImageBatch:
    return (inputs.prediction - inputs.prediction_target).square()


def _ssim(inputs: LossInputs, term: LossConfig) -> ImageBatch:
    return ssim_loss(inputs.x_0_pred, inputs.x_0)


def _gradient(inputs: LossInputs, term: LossConfig) -> ImageBatch:
    return gradient_loss(inputs.x_0_pred - inputs.x_0)


def _edges(inputs: LossInputs, term: LossConfig) -> ImageBatch:
    """The source has no edges of enhancing tumour, so voxels in and next to it do not count."""
    near_enhancing = F.max_pool2d(inputs.enhancing.type(inputs.x_0_pred.dtype), 5, 1, 2)
    return ngf_loss(inputs.x_0_pred, inputs.source) * (near_enhancing == 0)


def _ranking(inputs: LossInputs, term: LossConfig) -> ImageBatch:
    enhancement_pred = inputs.x_0_pred - inputs.source
    enhancement = inputs.x_0 - inputs.source
    return ranking_loss(enhancement_pred, enhancement, inputs.enhancing)


LOSSES: dict[str, Callable[[LossInputs, LossConfig], ImageBatch]] = {
    "charbonnier": _charbonnier,
    "l1": _l1,
    "l2": _l2,
    "ssim": _ssim,
    "gradient": _gradient,
    "edges": _edges,
    "ranking": _ranking,
}


def weighted_loss(terms: Sequence[LossConfig], inputs: LossInputs) -> Float[Tensor, ""]:
    """Sum the terms. Each is the mean over the crop of its loss map, weighted voxel by voxel.

    The weight of a voxel depends on its region and is 0 outside the brain. Windows and differences see zeros outside
    the brain, as synthesis puts there. A plain mean makes the parts of an accumulated batch add up to the loss of the
    batch, except for ranking, which compares voxels within a part.

    Args:
        terms: The terms with their weights.
        inputs: Predictions and targets.

    Returns:
        The loss of the batch.
    """
    masked = inputs.mask_background()

    loss = inputs.x_0_pred.new_zeros(())
    for term in terms:
        region_weights = inputs.x_0_pred.new_tensor([0.0, 1.0, term.tumour, term.enhancing])
        voxel_weights = region_weights[inputs.region.long()]  # b 1 h w
        loss_map = LOSSES[term.target](masked, term)
        loss = loss + term.weight * (loss_map * voxel_weights).mean()
    return loss
