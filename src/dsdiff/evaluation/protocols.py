"""Named ways to compare two T1ce: on which scale, over which voxels, against which peak.

An MRI has no unit, so a score means nothing without its protocol: the same two volumes differ by many dB from one to
the next (docs/metrics.md). Every result carries the name of the protocol it was made by.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dsdiff.errors import ConfigError
from dsdiff.evaluation import ssim, voxelwise
from dsdiff.evaluation.regions import Regions
from dsdiff.evaluation.voxelwise import Image, Mask


@dataclass(frozen=True)
class Pair:
    """A synthetic and an acquired T1ce on one scale, and the peak that PSNR and SSIM refer to."""

    image: Image
    truth: Image
    peak: float


@dataclass(frozen=True)
class Protocol:
    """How a protocol brings two images to one scale, and the name of the widest region it looks at."""

    says: str
    intensities: Callable[[Image, Image, Regions], Pair]  # for PSNR, NRMSE and MAE
    structure: Callable[[Image, Image, Regions], Pair]  # for SSIM and MS-SSIM
    widest: str


def _robust(image: Image, truth: Image, regions: Regions) -> Pair:
    target = voxelwise.robust(truth, regions.brain)
    return Pair(voxelwise.robust(image, regions.brain), target, voxelwise.data_range(target, regions.brain))


def _stretched(image: Image, truth: Image, regions: Regions) -> Pair:
    return Pair(voxelwise.stretched(image, regions.brain), voxelwise.stretched(truth, regions.brain), 1.0)


def _percentiles(image: Image, truth: Image, regions: Regions) -> Pair:
    return Pair(_own_percentiles(image), _own_percentiles(truth), 1.0)


def _own_percentiles(image: Image) -> Image:
    """0 and 1 at the 0.5 and 99.5 percentiles of the whole volume, clipped there; the lower one is 0 at least."""
    low, high = np.percentile(image, (0.5, 99.5))
    low = max(low, 0.0)
    if high <= low:
        raise ValueError("the image is constant or negative over 99 % of the volume")
    return (np.clip(image, low, high) - low) / (high - low)


def _matched(image: Image, truth: Image, regions: Regions) -> Pair:
    """The truth as it is, the image at its median and median absolute deviation; both zero outside the brain."""
    brain = regions.brain
    centre, width = voxelwise.robust_scale(truth, brain)
    same = np.array_equal(image[brain], truth[brain])  # identical as they are, not up to rounding
    matched = np.where(brain, image if same else voxelwise.robust(image, brain) * width + centre, 0)
    target = np.where(brain, truth, 0).astype(np.float64)
    return Pair(matched, target, float(np.ptp(target)))


PROTOCOLS = {
    "brain": Protocol(
        "inside the brain; PSNR, NRMSE, MAE on robust z-scores against the truth's 0.5-99.5 percentiles; "
        "SSIM, MS-SSIM on each volume's own 0.5-99.5 percentiles in the brain",
        _robust,
        _stretched,
        "brain",
    ),
    "brasyn": Protocol(
        "as the BraSyn challenge: each volume's own 0.5-99.5 percentiles over the whole volume; SSIM of the whole "
        "volume with all but the tumour, or the tumour, set to zero (most of it is background and counts as perfect)",
        _percentiles,
        _percentiles,
        "volume",
    ),
    "volume": Protocol(
        "the whole volume, background included; the synthetic volume matched to the truth's median and median absolute "
        "deviation in the brain; against the truth's maximum minus minimum",
        _matched,
        _matched,
        "volume",
    ),
}


def named(name: str) -> Protocol:
    """A protocol by its name. Raises `ConfigError` for an unknown one."""
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol '{name}' is unknown; known are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def likeness(image: Image, truth: Image, regions: Regions, name: str, fit: bool) -> dict[str, float]:
    """PSNR, NRMSE, MAE, SSIM and MS-SSIM by region, under keys such as `psnr_brain`; NaN for an empty region.

    fit: the image is first replaced, on the protocol's scale, by the linear map of it that is closest to the truth in
    the brain (least squares). Raises `ValueError` for an image that is constant over most of the brain.
    """
    protocol = named(name)
    shown = _pair(protocol.intensities, image, truth, regions, fit)
    same = protocol.structure is protocol.intensities
    windows = shown if same else _pair(protocol.structure, image, truth, regions, fit)
    found = {}
    for region, mask in _regions(protocol, regions).items():
        for metric in (voxelwise.psnr, voxelwise.nrmse, voxelwise.mae):
            found[f"{metric.__name__}_{region}"] = metric(shown.image, shown.truth, mask, shown.peak)
    if name == "brasyn":
        return found | _masked_ssim(windows, regions)
    return found | _ssim(windows, protocol, regions)


def _pair(
    scale: Callable[[Image, Image, Regions], Pair], image: Image, truth: Image, regions: Regions, fit: bool
) -> Pair:
    pair = scale(image, truth, regions)
    if not fit or np.array_equal(pair.image, pair.truth):
        return pair
    fitted = voxelwise.linear_fit(pair.image, pair.truth, regions.brain)
    return Pair(np.where(regions.brain, fitted, pair.image), pair.truth, pair.peak)


def _regions(protocol: Protocol, regions: Regions) -> dict[str, Mask]:
    widest = regions.brain if protocol.widest == "brain" else np.ones_like(regions.brain)
    return {
        protocol.widest: widest,
        "enhancing": regions.enhancing,
        "tumour": regions.tumour,
        "rest": regions.healthy,
    }


def _ssim(pair: Pair, protocol: Protocol, regions: Regions) -> dict[str, float]:
    """SSIM and MS-SSIM by region; over a whole volume they average the windows that lie wholly within it."""
    maps = ssim.maps(pair.image, pair.truth, pair.peak)
    levels = ssim.pyramid(pair.image, pair.truth, pair.peak, maps)
    found = {}
    for region, mask in _regions(protocol, regions).items():
        inner = ssim.interior(mask.shape) if region == "volume" else mask
        found[f"ssim_{region}"] = ssim.mean_over(maps[0], inner)
        found[f"ms_ssim_{region}"] = ssim.combine(levels, None if region == "volume" else mask)
    return found


def _masked_ssim(pair: Pair, regions: Regions) -> dict[str, float]:
    """SSIM over the whole volume of images that are zero outside a region, against the larger range of the two.

    Source: the challenge (arXiv 2305.09011) names SSIM in and outside the tumour; that this is how it is computed was
    read from evaluation code its participants publish (torchmetrics' defaults).
    """
    found = {}
    for region, mask in (("tumour", regions.tumour), ("rest", ~regions.tumour)):
        image, truth = pair.image * mask, pair.truth * mask
        peak = float(max(np.ptp(image), np.ptp(truth)))
        empty = peak == 0 or not regions.tumour.any()
        found[f"ssim_{region}"] = float("nan") if empty else float(ssim.maps(image, truth, peak)[0].mean())
    return found
