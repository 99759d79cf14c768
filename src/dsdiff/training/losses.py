"""Losses: maps of what is wrong voxel by voxel, weighted by region and summed over terms."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from dsdiff.conditioning.edges import gradients
from dsdiff.config.run import LossConfig
from dsdiff.data.dataset import ENHANCING

RANGE = 10.0  # robust z-scores that a T1ce spans, for the constants of SSIM
RIVALS = 32  # enhancing voxels that every other voxel of a slice is compared with
Image = Float[Tensor, "b 1 h w"]


def charbonnier(error: Image, epsilon: float) -> Image:
    """epsilon (sqrt(1 + (error / epsilon)^2) - 1): quadratic below epsilon, linear above.

    Source: Charbonnier et al. 1994, in the form of Barron 2019 (arXiv:1701.03077, eq. 1 with alpha 1).
    """
    return epsilon * ((1 + (error / epsilon).square()).sqrt() - 1)


def gradient(error: Image) -> Image:
    """Absolute differences of the error between a voxel and the next in h and in w: blur and false edges cost."""
    down = F.pad((error[:, :, 1:] - error[:, :, :-1]).abs(), (0, 0, 0, 1))
    return down + F.pad((error[..., 1:] - error[..., :-1]).abs(), (0, 1))


def dissimilarity(x: Image, y: Image) -> Image:
    """1 - SSIM, Gaussian windows of 1.5 voxels cut at 5, zero beyond the edges.

    Source: Wang et al. 2004 (doi:10.1109/TIP.2003.819861), eq. 13, K1 0.01, K2 0.03, population covariance.
    """
    taps = torch.exp(-torch.arange(-5.0, 6.0, device=x.device, dtype=x.dtype).square() / (2 * 1.5**2))
    taps = taps / taps.sum()

    def blur(image: Image) -> Image:
        along_h = F.conv2d(image, taps[None, None, :, None], padding=(5, 0))
        return F.conv2d(along_h, taps[None, None, None], padding=(0, 5))

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return 1 - similarity / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))


def misaligned(x: Image, y: Image, eta: float = 0.2) -> Image:
    """1 - the squared cosine between the gradients of two images: 0 where their edges run alike, whatever their sign
    and height; edges far below eta (per pixel) count as none.

    Source: Haber and Modersitzki 2006 (normalised gradient fields, doi:10.1007/11866763_89, eq. 6).
    """
    of_x, of_y = gradients(x), gradients(y)  # 2 b 1 h w
    sizes = [of.square().sum(0) + eta**2 for of in (of_x, of_y)]
    return 1 - (of_x * of_y).sum(0).square() / (sizes[0] * sizes[1])


def misordered(made: Image, true: Image, enhancing: Bool[Tensor, "b 1 h w"]) -> Image:
    """How far each voxel's enhancement (T1ce minus start) comes up to those of the enhancing tumour, where the true one
    does not: the mean over some of these of softplus(here - there), and 0 within the enhancing tumour. They are of the
    same slice, or, where nothing of it enhances, of the batch: most of a brain lies in such slices.

    A smooth stand-in for 1 - AUC. Source: the pairwise logistic loss of Burges et al. 2005 (RankNet,
    doi:10.1145/1102351.1102363, eq. 3).
    """
    everywhere = enhancing.flatten().nonzero()[:, 0]
    if not len(everywhere):
        return made * 0  # a loss of nothing that gradients go through all the same
    found = []
    for i, there in enumerate(enhancing):
        own = there.flatten().nonzero()[:, 0] + i * there.numel()
        rivals = own if len(own) else everywhere
        picked = rivals[torch.linspace(0, len(rivals) - 1, RIVALS, device=made.device).long()]
        above = made[i] - made.flatten()[picked, None, None]  # k h w
        wrong = F.softplus(above) * (true[i] < true.flatten()[picked, None, None])
        found.append(wrong.mean(0, keepdim=True) * ~there)
    return torch.stack(found)


def surprise(x_0: Image, truth: Image, expected: Image) -> Image:
    """How badly the network knows its own error: the negative log-likelihood of a Laplace distribution of that mean
    absolute error about x_0, whose own channel it leaves to the other terms (the layers below are shared).

    Source: the attenuated loss of Kendall and Gal 2017 (arXiv:1703.04977, section 3), its norm the absolute one.
    """
    return (x_0.detach() - truth).abs() / expected + expected.log()


def error_map(
    term: LossConfig,
    predicted: Image,
    wanted: Image,
    x_0: Image,
    truth: Image,
    start: Image,
    region: Integer[Tensor, "b 1 h w"],
) -> Image:
    """What is wrong in every voxel by one term: with the prediction, or with the T1ce (z-scores) that it stands for."""
    if term.epsilon is not None:
        return charbonnier(predicted - wanted, term.epsilon)
    if term.target == "ssim":
        return dissimilarity(x_0, truth)
    if term.target == "edges":
        return misaligned(x_0, start)
    if term.target == "ranking":
        return misordered(x_0 - start, truth - start, region == ENHANCING)
    if term.target == "gradient":
        return gradient(x_0 - truth)
    return (predicted - wanted).abs() if term.target == "l1" else (predicted - wanted).square()


def total(
    terms: Sequence[LossConfig],
    predicted: Image,
    wanted: Image,
    x_0: Image,
    truth: Image,
    start: Image,
    region: Integer[Tensor, "b 1 h w"],
) -> Float[Tensor, ""]:
    """Sum of the terms, each the mean over the crop of its map, each voxel weighted by its region (see
    `cohort.Patient`): 0 outside the brain; for edges also in and next to what enhances, whose edges the start (robust
    z-scores) does not have. Windows and differences see zeros outside the brain, as synthesis puts there. A plain mean,
    so that the parts of an accumulated batch add up to the whole (but for ranking, which compares within a part).
    """
    loss = x_0.new_zeros(())
    x_0, truth, start = (image * (region > 0) for image in (x_0, truth, start))
    for term in terms:
        weights = x_0.new_tensor([0.0, 1.0, term.tumour, term.enhancing])[region.long()]
        if term.target == "edges":
            weights = weights * (F.max_pool2d((region == ENHANCING).type(x_0.dtype), 5, 1, 2) == 0)
        loss = loss + term.weight * (error_map(term, predicted, wanted, x_0, truth, start, region) * weights).mean()
    return loss
