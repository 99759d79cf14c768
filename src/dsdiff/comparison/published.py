"""What the original system's table prints of backbones, to stand beside what is measured; nobody here measured it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """parameters in millions, seconds a sample, memory in GB, PSNR in dB (BraSyn, whole volume, one fold and seed;
    NRMSE and MS-SSIM likewise)."""

    parameters: float | int
    seconds: int
    memory: int
    psnr: float
    nrmse: float
    ms_ssim: float


PRINTED = {
    "unet": Printed(18.5, 9, 12, 27.70, 0.0429, 0.9008),
    "vit": Printed(40.2, 12, 15, 27.52, 0.0445, 0.8912),
    "dit": Printed(45.8, 14, 16, 27.65, 0.0435, 0.8985),
    "transformer": Printed(120, 18, 24, 27.48, 0.0458, 0.8854),
}
