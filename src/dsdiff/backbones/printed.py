"""What the original system's table prints of backbones, to stand beside what is measured; nobody here measured it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Printed:
    """parameters in millions, seconds a sample, memory in GB, PSNR in dB (BraSyn, whole volume, one fold and seed)."""

    parameters: float
    seconds: float
    memory: float
    psnr: float


PRINTED = {
    "unet": Printed(18.5, 9, 12, 27.70),
    "vit": Printed(40.2, 12, 15, 27.52),
    "dit": Printed(45.8, 14, 16, 27.65),
    "transformer": Printed(120, 18, 24, 27.48),
}
