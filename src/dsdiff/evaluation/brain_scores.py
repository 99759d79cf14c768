"""The default protocol `brain`: the main scores of one patient, as validation and `make eval-real` print them."""

from dsdiff.evaluation import ssim, voxelwise
from dsdiff.evaluation.regions import Regions
from dsdiff.volume import Volume3D

# score -> description, in the order of printing
SCORE_DESCRIPTIONS = {
    "psnr": "PSNR in the brain, dB, robust scale, peak = the truth's 0.5-99.5 percentiles",
    "psnr_fit": "PSNR in the brain after the best linear intensity map",
    "ssim": "SSIM in the brain, each volume stretched to its own 0.5-99.5 percentiles",
    "auc_brain": "AUC of enhancement: enhancing tumour against the rest of the brain",
    "auc_tumour": "AUC of enhancement: enhancing tumour against the rest of the tumour",
    "enhancement_recovery": (
        "fraction of the true enhancement recovered in the enhancing tumour (if its mean is 1 robust SD or more)"
    ),
}
ENHANCEMENT_SCORES = ("auc_brain", "auc_tumour", "enhancement_recovery")
MIN_ENHANCING_VOXELS = 50  # a smaller enhancing tumour would give scores of noise


def score_brain(t1ce: Volume3D, truth: Volume3D, t1: Volume3D, regions: Regions) -> dict[str, float]:
    """Score one patient by the scores of SCORE_DESCRIPTIONS.

    Args:
        t1ce: The synthetic T1ce, in any intensity unit.
        truth: The acquired T1ce, in any intensity unit.
        t1: The T1, in any intensity unit.
        regions: Brain and tumour masks on the same grid.

    Returns:
        Score name -> value; NaN for enhancement if fewer than MIN_ENHANCING_VOXELS enhance.

    Raises:
        ValueError: A volume is constant over most of the brain.
    """
    brain = regions.brain
    image, target = voxelwise.robust_zscore(t1ce, brain), voxelwise.robust_zscore(truth, brain)
    peak = voxelwise.data_range(target, brain)
    fitted = voxelwise.fit_linear_map(image, target, brain)
    stretched = voxelwise.stretch_percentiles(image, brain)
    stretched_target = voxelwise.stretch_percentiles(target, brain)

    scores = {
        "psnr": voxelwise.psnr(image, target, brain, peak),
        "psnr_fit": voxelwise.psnr(fitted, target, brain, peak),
        "ssim": ssim.ssim(stretched, stretched_target, brain, 1.0),
    }
    return scores | score_enhancement(image, target, voxelwise.robust_zscore(t1, brain), regions)


def score_enhancement(image: Volume3D, truth: Volume3D, t1: Volume3D, regions: Regions) -> dict[str, float]:
    """Score enhancement: T1ce minus T1, on the robust scale.

    Args:
        image: The synthetic T1ce, as robust z-scores.
        truth: The acquired T1ce, as robust z-scores.
        t1: The T1, as robust z-scores.
        regions: Brain and tumour masks on the same grid.

    Returns:
        The scores of ENHANCEMENT_SCORES; NaN if fewer than MIN_ENHANCING_VOXELS enhance.
    """
    if regions.enhancing.sum() < MIN_ENHANCING_VOXELS:
        return dict.fromkeys(ENHANCEMENT_SCORES, float("nan"))
    synthetic, acquired = image - t1, truth - t1
    return {
        "auc_brain": voxelwise.auc(synthetic, regions.enhancing, regions.non_enhancing_brain),
        "auc_tumour": voxelwise.auc(synthetic, regions.enhancing, regions.non_enhancing_tumour),
        "enhancement_recovery": voxelwise.enhancement_recovery(synthetic, acquired, regions.enhancing),
    }
