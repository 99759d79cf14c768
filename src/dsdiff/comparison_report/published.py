"""Results of the original paper, shown beside ours. Nobody reproduced them here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedResult:
    """One row of the original table. Scores: BraSyn, full volumes with background, one fold and one seed.

    Attributes:
        parameters_millions: Parameters, in millions.
        seconds_per_sample: Sampling time of one sample, in seconds.
        memory_gb: Memory, in GB.
        psnr: PSNR, in dB.
        nrmse: Normalized root mean squared error.
        ms_ssim: Multi-scale SSIM.
    """

    parameters_millions: float | int
    seconds_per_sample: int
    memory_gb: int
    psnr: float
    nrmse: float
    ms_ssim: float


PUBLISHED_RESULTS = {
    "unet": PublishedResult(18.5, 9, 12, 27.70, 0.0429, 0.9008),
    "vit": PublishedResult(40.2, 12, 15, 27.52, 0.0445, 0.8912),
    "dit": PublishedResult(45.8, 14, 16, 27.65, 0.0435, 0.8985),
    "transformer": PublishedResult(120, 18, 24, 27.48, 0.0458, 0.8854),
}
