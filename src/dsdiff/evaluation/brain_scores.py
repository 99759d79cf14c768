"""The protocol `brain`: what `make eval-real` prints of each patient."""

from dsdiff.evaluation import ssim, voxelwise
from dsdiff.evaluation.regions import Regions
from dsdiff.evaluation.voxelwise import Image

# name -> what it says, in the order of printing
SCORES = {
    "psnr": "PSNR in the brain, dB, robust scale, peak = the truth's 0.5-99.5 percentiles",
    "psnr_fit": "the same after the best linear intensity map",
    "ssim": "SSIM in the brain, each volume stretched to its own 0.5-99.5 percentiles",
    "auc_brain": "AUC of enhancement: enhancing tumour against the rest of the brain",
    "auc_tumour": "AUC of enhancement: enhancing tumour against the rest of the tumour",
    "gain": "share of the true enhancement recovered in the enhancing tumour (where its mean is 1 robust SD or more)",
}
LEAST_ENHANCING = 50  # voxels of enhancing tumour below which its scores would be noise


def score(t1ce: Image, truth: Image, t1: Image, regions: Regions) -> dict[str, float]:
    """Every score of SCORES for one patient; NaN for enhancement where under LEAST_ENHANCING voxels enhance.

    t1ce, truth and t1 in any intensity scale of their own, on one grid.
    """
    brain = regions.brain
    image, target = voxelwise.robust(t1ce, brain), voxelwise.robust(truth, brain)
    peak = voxelwise.data_range(target, brain)
    fitted = voxelwise.linear_fit(image, target, brain)
    found = {
        "psnr": voxelwise.psnr(image, target, brain, peak),
        "psnr_fit": voxelwise.psnr(fitted, target, brain, peak),
        "ssim": ssim.ssim(voxelwise.stretched(image, brain), voxelwise.stretched(target, brain), brain, 1.0),
    }
    return found | enhancement(image, target, voxelwise.robust(t1, brain), regions)


def enhancement(image: Image, truth: Image, t1: Image, regions: Regions) -> dict[str, float]:
    """The scores of enhancement, T1ce minus T1 on the robust scale; NaN where under LEAST_ENHANCING voxels enhance."""
    if regions.enhancing.sum() < LEAST_ENHANCING:
        return dict.fromkeys(("auc_brain", "auc_tumour", "gain"), float("nan"))
    made, true = image - t1, truth - t1
    return {
        "auc_brain": voxelwise.auc(made, regions.enhancing, regions.rest_of_brain),
        "auc_tumour": voxelwise.auc(made, regions.enhancing, regions.rest_of_tumour),
        "gain": voxelwise.gain(made, true, regions.enhancing),
    }
