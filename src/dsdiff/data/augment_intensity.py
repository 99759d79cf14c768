"""Random changes of the source intensities, as another scanner or sequence makes them, each contrast by itself.

Sources are robust z-scores. They stay zero outside the brain.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dsdiff.data.settings import (
    Augmentation,
    AugmentConfig,
    Bias,
    Blur,
    Gamma,
    Noise,
    RandomAnisotropy,
    RandomScanner,
)

Sources = Float[Tensor, "b s d h w"]

BRAIN_ABOVE_AIR = 4.5  # robust widths from air to a brain's median: in 47 patients T1 4.4, T2 3.5, FLAIR 4.6
BIAS_CONTROL_POINTS = 4  # along h and along w


def augment_intensity(sources: Sources, config: AugmentConfig, generator: torch.Generator) -> Sources:
    """Change the intensities of the sources at random.

    Args:
        sources: (b, s, d, h, w) robust z-scores, zero outside the brain.
        config: Augmentations with their probabilities and strengths.
        generator: Source of all random numbers.

    Returns:
        The changed sources.
    """
    brain = sources != 0
    augmentations: tuple[tuple[Augmentation, Callable[..., Sources]], ...] = (
        (config.scanner, simulate_scanner),
        (config.bias, apply_bias_field),
        (config.gamma, apply_gamma),
        (config.anisotropy, simulate_thick_slices),
        (config.blur, blur_in_plane),
        (config.noise, add_noise),
    )
    for settings, augment in augmentations:
        if settings.probability:
            is_changed = (
                torch.rand(sources.shape[:2], generator=generator)[:, :, None, None, None] < settings.probability
            )
            if is_changed.any():
                sources = torch.where(is_changed & brain, augment(sources, settings, generator), sources)
    return sources


def simulate_scanner(sources: Sources, config: RandomScanner, generator: torch.Generator) -> Sources:
    """Apply a random gain, a smooth curve of intensity, and a bias field made of a plane and a saddle.

    The curve is z + a z^2 / (2 + |z|), which is monotone for |a| < 1.

    Args:
        sources: (b, s, d, h, w) robust z-scores.
        config: The strength.
        generator: Source of all random numbers.

    Returns:
        The changed sources.
    """
    b, s, _, h, w = sources.shape
    coefficients = (torch.rand(5, b, s, 1, 1, 1, generator=generator) * 2 - 1) * config.strength
    gain, curvature, tilt_h, tilt_w, saddle = coefficients.unbind()
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)[None]
    bias = tilt_h * y + tilt_w * x + saddle * (x * y)
    curved = sources + curvature * sources.square() / (2 + sources.abs())
    return curved * (1 + gain) + bias


def apply_bias_field(sources: Sources, config: Bias, generator: torch.Generator) -> Sources:
    """Multiply intensities (z-scores above air) by a smooth field, the same one in all context slices.

    Args:
        sources: (b, s, d, h, w) robust z-scores.
        config: The strength.
        generator: Source of all random numbers.

    Returns:
        The changed sources.
    """
    b, s, _, h, w = sources.shape
    shape = (b, s, BIAS_CONTROL_POINTS, BIAS_CONTROL_POINTS)
    points = (torch.rand(shape, generator=generator) * 2 - 1) * config.strength
    points = points - points.mean((2, 3), keepdim=True)
    log_field = F.interpolate(points, (h, w), mode="bilinear", align_corners=True)
    return (sources + BRAIN_ABOVE_AIR) * log_field.exp()[:, :, None] - BRAIN_ABOVE_AIR


def apply_gamma(sources: Sources, config: Gamma, generator: torch.Generator) -> Sources:
    """Raise intensities (z-scores above air) to a power. z = 0 stays, and so does the slope at z = 0.

    Args:
        sources: (b, s, d, h, w) robust z-scores.
        config: The strength.
        generator: Source of all random numbers.

    Returns:
        The changed sources.
    """
    b, s = sources.shape[:2]
    power = ((torch.rand(b, s, 1, 1, 1, generator=generator) * 2 - 1) * config.strength).exp()
    intensity = (sources / BRAIN_ABOVE_AIR + 1).clamp(min=0)
    return BRAIN_ABOVE_AIR * (intensity**power - 1) / power


def blur_in_plane(sources: Sources, config: Blur, generator: torch.Generator) -> Sources:
    """Blur in the plane with a Gaussian of another width for each contrast.

    Args:
        sources: (b, s, d, h, w) robust z-scores.
        config: The strength.
        generator: Source of all random numbers.

    Returns:
        The changed sources.
    """
    b, s, d, h, w = sources.shape
    sigma = torch.rand(b, s, 1, generator=generator).clamp(min=0.05) * config.strength
    radius = math.ceil(3 * config.strength)
    kernel = (-0.5 * (torch.arange(-radius, radius + 1) / sigma).square()).exp()  # b s k
    kernel = (kernel / kernel.sum(2, keepdim=True)).repeat_interleave(d, 1).reshape(b * s * d, 1, 1, -1)

    channels = sources.reshape(1, b * s * d, h, w)
    blurred_along_w = F.conv2d(channels, kernel, padding=(0, radius), groups=b * s * d)
    blurred = F.conv2d(blurred_along_w, kernel.transpose(2, 3), padding=(radius, 0), groups=b * s * d)
    return blurred.reshape(b, s, d, h, w)


def simulate_thick_slices(sources: Sources, config: RandomAnisotropy, generator: torch.Generator) -> Sources:
    """Average over thick slices along h or w, interpolated linearly, or over all context slices.

    Args:
        sources: (b, s, d, h, w) robust z-scores.
        config: The largest thickness.
        generator: Source of all random numbers.

    Returns:
        The changed sources.
    """
    b, s, _, h, w = sources.shape
    axes = torch.randint(3, (b, s), generator=generator)  # 0 along h, 1 along w, 2 through the context slices
    thicknesses = 2 + torch.rand(b, s, generator=generator) * (config.max_thickness - 2)

    averaged = torch.empty_like(sources)
    for i in range(b):
        for j in range(s):
            axis = int(axes[i, j])
            if axis == 2:
                averaged[i, j] = sources[i, j].mean(0)
                continue
            size = [h, w]
            size[axis] = max(1, round(size[axis] / float(thicknesses[i, j])))
            thick_slices = F.interpolate(sources[i, j, None], size, mode="area")
            averaged[i, j] = F.interpolate(thick_slices, (h, w), mode="bilinear", align_corners=False)[0]
    return averaged


def add_noise(sources: Sources, config: Noise, generator: torch.Generator) -> Sources:
    """Add Gaussian noise of another strength for each contrast.

    Args:
        sources: (b, s, d, h, w) robust z-scores.
        config: The strength.
        generator: Source of all random numbers.

    Returns:
        The changed sources.
    """
    b, s = sources.shape[:2]
    sigma = torch.rand(b, s, 1, 1, 1, generator=generator) * config.strength
    return sources + sigma * torch.randn(sources.shape, generator=generator)
