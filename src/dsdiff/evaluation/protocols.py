"""Named protocols of comparing two T1ce: intensity scale, voxels, and peak.

MRI intensities have no unit, so a score means nothing without its protocol: the scores of the same two volumes differ
by many dB between protocols (docs/metrics.md). Every result carries the name of its protocol.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dsdiff.errors import ConfigError
from dsdiff.evaluation import ssim, voxelwise
from dsdiff.evaluation.regions import Regions
from dsdiff.volume import Mask3D, Volume3D


@dataclass(frozen=True)
class ImagePair:
    """A synthetic and an acquired T1ce on one intensity scale, and the peak of PSNR and SSIM."""

    image: Volume3D
    truth: Volume3D
    peak: float


Scale = Callable[[Volume3D, Volume3D, Regions], ImagePair]


@dataclass(frozen=True)
class Protocol:
    """How a protocol brings two images to one scale.

    Attributes:
        description: The protocol in words, for reports.
        intensity_scale: Scale for PSNR, NRMSE and MAE.
        structure_scale: Scale for SSIM and MS-SSIM.
        widest_region: The largest region that is scored: `brain` or `volume`.
    """

    description: str
    intensity_scale: Scale
    structure_scale: Scale
    widest_region: str


def _robust_pair(image: Volume3D, truth: Volume3D, regions: Regions) -> ImagePair:
    """Bring both to robust z-scores; the peak is the truth's range in the brain."""
    target = voxelwise.robust_zscore(truth, regions.brain)
    peak = voxelwise.data_range(target, regions.brain)
    return ImagePair(voxelwise.robust_zscore(image, regions.brain), target, peak)


def _stretched_pair(image: Volume3D, truth: Volume3D, regions: Regions) -> ImagePair:
    """Stretch both to 0 and 1 at their own percentiles in the brain."""
    stretched = voxelwise.stretch_percentiles(image, regions.brain)
    return ImagePair(stretched, voxelwise.stretch_percentiles(truth, regions.brain), 1.0)


def _percentile_pair(image: Volume3D, truth: Volume3D, regions: Regions) -> ImagePair:
    """Stretch both to 0 and 1 at their own percentiles over the whole volume."""
    return ImagePair(_stretch_volume(image), _stretch_volume(truth), 1.0)


def _stretch_volume(image: Volume3D) -> Volume3D:
    """Map the 0.5 percentile (0 at least) and the 99.5 percentile of the whole volume to 0 and 1, and clip there."""
    low, high = np.percentile(image, (0.5, 99.5))
    low = max(low, 0.0)
    if high <= low:
        raise ValueError("the image is constant or negative over 99 % of the volume")
    return (np.clip(image, low, high) - low) / (high - low)


def _matched_pair(image: Volume3D, truth: Volume3D, regions: Regions) -> ImagePair:
    """Give the image the truth's median and median absolute deviation; both are zero outside the brain."""
    brain = regions.brain
    center, width = voxelwise.robust_scale(truth, brain)
    is_identical = np.array_equal(image[brain], truth[brain])  # stays identical, not only up to rounding
    matched = image if is_identical else voxelwise.robust_zscore(image, brain) * width + center
    target = np.where(brain, truth, 0).astype(np.float64)
    return ImagePair(np.where(brain, matched, 0), target, float(np.ptp(target)))


PROTOCOLS = {
    "brain": Protocol(
        "inside the brain; PSNR, NRMSE, MAE on robust z-scores against the truth's 0.5-99.5 percentiles; "
        "SSIM, MS-SSIM on each volume's own 0.5-99.5 percentiles in the brain",
        _robust_pair,
        _stretched_pair,
        "brain",
    ),
    "brasyn": Protocol(
        "as the BraSyn challenge: each volume's own 0.5-99.5 percentiles over the whole volume; SSIM of the whole "
        "volume with all but the tumour, or the tumour, set to zero (most of it is background and counts as perfect)",
        _percentile_pair,
        _percentile_pair,
        "volume",
    ),
    "volume": Protocol(
        "the whole volume, background included; the synthetic volume matched to the truth's median and median absolute "
        "deviation in the brain; against the truth's maximum minus minimum",
        _matched_pair,
        _matched_pair,
        "volume",
    ),
}


def get_protocol(name: str) -> Protocol:
    """Look a protocol up.

    Args:
        name: Its name.

    Returns:
        The protocol.

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol '{name}' is unknown; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def score_similarity(image: Volume3D, truth: Volume3D, regions: Regions, name: str, fit: bool) -> dict[str, float]:
    """Compute PSNR, NRMSE, MAE, SSIM and MS-SSIM by region.

    Args:
        image: The synthetic T1ce.
        truth: The acquired T1ce.
        regions: Brain and tumour masks on the same grid.
        name: Name of the protocol.
        fit: Whether to map the image linearly to the truth first, on the protocol's scale, by least squares in the
            brain.

    Returns:
        Score such as `psnr_brain` -> value; NaN for an empty region.

    Raises:
        ConfigError: The protocol is unknown.
        ValueError: An image is constant over most of the brain.
    """
    protocol = get_protocol(name)
    intensity_pair = _scaled_pair(protocol.intensity_scale, image, truth, regions, fit)
    if protocol.structure_scale is protocol.intensity_scale:
        structure_pair = intensity_pair
    else:
        structure_pair = _scaled_pair(protocol.structure_scale, image, truth, regions, fit)

    scores = {}
    pair = intensity_pair
    for region, mask in _scored_regions(protocol, regions).items():
        for metric in (voxelwise.psnr, voxelwise.nrmse, voxelwise.mae):
            scores[f"{metric.__name__}_{region}"] = metric(pair.image, pair.truth, mask, pair.peak)
    if name == "brasyn":
        return scores | _masked_ssim(structure_pair, regions)
    return scores | _ssim_by_region(structure_pair, protocol, regions)


def _scaled_pair(scale: Scale, image: Volume3D, truth: Volume3D, regions: Regions, fit: bool) -> ImagePair:
    pair = scale(image, truth, regions)
    if not fit or np.array_equal(pair.image, pair.truth):
        return pair
    fitted = voxelwise.fit_linear_map(pair.image, pair.truth, regions.brain)
    return ImagePair(np.where(regions.brain, fitted, pair.image), pair.truth, pair.peak)


def _scored_regions(protocol: Protocol, regions: Regions) -> dict[str, Mask3D]:
    widest = regions.brain if protocol.widest_region == "brain" else np.ones_like(regions.brain)
    return {
        protocol.widest_region: widest,
        "enhancing": regions.enhancing,
        "tumour": regions.tumour,
        "rest": regions.healthy,
    }


def _ssim_by_region(pair: ImagePair, protocol: Protocol, regions: Regions) -> dict[str, float]:
    """Compute SSIM and MS-SSIM by region; over a whole volume they average the windows that lie within it."""
    maps = ssim.ssim_maps(pair.image, pair.truth, pair.peak)
    levels = ssim.ms_ssim_maps(pair.image, pair.truth, pair.peak, maps)

    scores = {}
    for region, mask in _scored_regions(protocol, regions).items():
        inner = ssim.interior_mask(mask.shape) if region == "volume" else mask
        scores[f"ssim_{region}"] = ssim.mean_over(maps[0], inner)
        scores[f"ms_ssim_{region}"] = ssim.combine_scales(levels, None if region == "volume" else mask)
    return scores


def _masked_ssim(pair: ImagePair, regions: Regions) -> dict[str, float]:
    """Compute SSIM over the whole volume of images that are zero outside a region, against the larger of their ranges.

    Source: the challenge (arXiv 2305.09011) names SSIM in and outside the tumour. That it is computed so was read from
    evaluation code that its participants publish (torchmetrics' defaults).
    """
    scores = {}
    for region, mask in (("tumour", regions.tumour), ("rest", ~regions.tumour)):
        image, truth = pair.image * mask, pair.truth * mask
        peak = float(max(np.ptp(image), np.ptp(truth)))
        if peak == 0 or not regions.tumour.any():
            scores[f"ssim_{region}"] = float("nan")
        else:
            scores[f"ssim_{region}"] = float(ssim.ssim_maps(image, truth, peak)[0].mean())
    return scores
