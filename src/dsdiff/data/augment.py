"""Random changes of training slices: what differs between patients, scanners and sites and must not matter.

Geometry moves sources, target, style and region alike; intensity changes the sources alone, each contrast by itself,
and leaves zero (outside the brain) zero. Whatever is drawn follows from the generator that is given.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dsdiff.schema import ConfigModel

Sources = Float[Tensor, "b s d h w"]

AIR = 4.5  # robust widths by which a brain's median lies above zero: of 47 patients T1 4.4, T2 3.5, FLAIR 4.6
GRID = 4  # control points of a bias field along h and w


class Augmentation(ConfigModel):
    """probability: of the slices (of the contrasts, for intensity) how many are changed; 0 turns a kind off."""

    probability: float = Field(0.0, ge=0, le=1)


class Flip(Augmentation):
    """Left and right exchanged."""

    probability: float = Field(0.5, ge=0, le=1)


class Affine(Augmentation):
    """Rotation by up to `degrees`, size by up to exp(+-zoom), shear by up to `shear`."""

    probability: float = Field(1.0, ge=0, le=1)
    degrees: float = Field(12.0, ge=0, le=180)
    zoom: float = Field(0.12, ge=0, le=1)
    shear: float = Field(0.08, ge=0, le=1)


class Elastic(Augmentation):
    """Smooth displacement by up to about `pixels` (a bend between two may reach 1.5 times as far), independent at
    `spacing` pixels."""

    pixels: float = Field(4.0, gt=0)
    spacing: int = Field(32, ge=4)


class RandomScanner(Augmentation):
    """Another scanner: gain, a smooth curve of intensity and a field of bias at once: the first two by up to
    `strength`, the bias by as much along each axis and in its saddle, three times as much in a corner at most."""

    probability: float = Field(1.0, ge=0, le=1)
    strength: float = Field(0.25, gt=0, lt=1)


class Bias(Augmentation):
    """A smooth field by which intensities are multiplied, from about exp(-strength) to exp(strength)."""

    strength: float = Field(0.3, gt=0)


class Gamma(Augmentation):
    """Intensities to a power from exp(-strength) to exp(strength); median and width of the brain stay."""

    strength: float = Field(0.4, gt=0)


class Noise(Augmentation):
    """Gaussian noise of up to `strength` robust widths."""

    strength: float = Field(0.3, gt=0)


class Blur(Augmentation):
    """A Gaussian of up to `strength` pixels (standard deviation), in the plane."""

    strength: float = Field(1.5, gt=0)


class RandomAnisotropy(Augmentation):
    """Slices 2 to `most` pixels thick, along h, along w, or through the slab, interpolated back."""

    max_thickness: float = Field(6.0, ge=2)


class AugmentConfig(ConfigModel):
    """Which changes, how often and how strong. What is on by default is what the shipped model was trained with."""

    flip: Flip = Flip()
    affine: Affine = Affine()
    elastic: Elastic = Elastic()
    scanner: RandomScanner = RandomScanner()
    bias: Bias = Bias()
    gamma: Gamma = Gamma()
    blur: Blur = Blur()
    anisotropy: RandomAnisotropy = RandomAnisotropy()
    noise: Noise = Noise()

    @staticmethod
    def off() -> "AugmentConfig":
        """No change at all."""
        return AugmentConfig.model_validate({name: {"probability": 0} for name in AugmentConfig.model_fields})


def moved(
    images: Float[Tensor, "b c h w"], labels: Float[Tensor, "b n h w"], config: AugmentConfig, dice: torch.Generator
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b n h w"]]:
    """Images and labels flipped, turned and bent alike; labels keep their values."""
    b, _, h, w = images.shape
    mirrored = torch.zeros(b, dtype=torch.bool)
    if config.flip.probability:
        mirrored = torch.rand(b, generator=dice) < config.flip.probability
    if not config.affine.probability and not config.elastic.probability:
        return flip(images, mirrored), flip(labels, mirrored)
    grid = affine_grid(b, (h, w), dice, config.affine)
    if config.elastic.probability:
        grid = grid + elastic(b, (h, w), dice, config.elastic)
    grid[..., 1] *= torch.where(mirrored, -1.0, 1.0)[:, None, None]  # a flip that costs no pass of its own
    return warp(images, grid), warp(labels, grid, "nearest")


def flip(images: Float[Tensor, "b c h w"], mirrored: Bool[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Exchange left and right in some of the slices (h runs from left to right)."""
    return torch.where(mirrored[:, None, None, None], images.flip(2), images)


def affine_grid(batch: int, size: tuple[int, int], dice: torch.Generator, config: Affine) -> Float[Tensor, "b h w 2"]:
    """A sampling grid of a random rotation, scale and shear about the slice's middle, for `warp`.

    In units of the slice's sides: one that is no square is also sheared as it turns, at 128 x 160 by 5 of 12 degrees.
    """
    changed = torch.rand(batch, generator=dice) < config.probability
    angle, log_scale, shear = ((torch.rand(3, batch, generator=dice) * 2 - 1) * changed).unbind()
    angle, scale, shear = angle * math.radians(config.degrees), (log_scale * config.zoom).exp(), shear * config.shear
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos(), -scale * angle.sin() + shear
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    return F.affine_grid(theta, [batch, 1, *size], align_corners=False)


def elastic(batch: int, size: tuple[int, int], dice: torch.Generator, config: Elastic) -> Float[Tensor, "b h w 2"]:
    """A smooth displacement to be added to a sampling grid: cubic between control points."""
    changed = torch.rand(batch, generator=dice) < config.probability
    points = [max(2, -(-extent // config.spacing) + 1) for extent in size]
    drawn = (torch.rand(batch, 2, *points, generator=dice) * 2 - 1) * changed[:, None, None, None]
    smooth = F.interpolate(drawn, size, mode="bicubic", align_corners=True)  # b 2 h w
    reach = torch.tensor([2 * config.pixels / extent for extent in reversed(size)])  # a grid's x runs along w
    return smooth.permute(0, 2, 3, 1) * reach


def warp(
    images: Float[Tensor, "b c h w"], grid: Float[Tensor, "b h w 2"], mode: str = "bilinear"
) -> Float[Tensor, "b c h w"]:
    """Sample images on a grid; zero beyond their border."""
    return F.grid_sample(images, grid, mode=mode, align_corners=False)


def seen(sources: Sources, config: AugmentConfig, dice: torch.Generator) -> Sources:
    """The sources as another scanner might have seen them: each kind in its share of the contrasts."""
    brain = sources != 0
    kinds: tuple[tuple[Augmentation, Callable[..., Sources]], ...] = (
        (config.scanner, restyle), (config.bias, bias), (config.gamma, gamma),
        (config.anisotropy, thick), (config.blur, blur), (config.noise, noise),
    )  # fmt: skip
    for kind, change in kinds:
        if kind.probability:
            changed = torch.rand(sources.shape[:2], generator=dice)[:, :, None, None, None] < kind.probability
            if changed.any():
                sources = torch.where(changed & brain, change(sources, kind, dice), sources)
    return sources


def restyle(sources: Sources, kind: RandomScanner, dice: torch.Generator) -> Sources:
    """Per contrast a random gain, a smooth curve of intensity and a smooth field of bias, a plane plus a saddle.

    The curve is z + a z^2 / (2 + |z|), monotone for |a| < 1.
    """
    b, s, _, h, w = sources.shape
    drawn = (torch.rand(5, b, s, 1, 1, 1, generator=dice) * 2 - 1) * kind.strength
    gain, curve, tilt_h, tilt_w, saddle = drawn.unbind()
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)[None]
    field = tilt_h * y + tilt_w * x + saddle * (x * y)
    curved = sources + curve * sources.square() / (2 + sources.abs())
    return curved * (1 + gain) + field


def bias(sources: Sources, kind: Bias, dice: torch.Generator) -> Sources:
    """Intensity times a smooth field, the same in all slices of a slab; intensity is z above air."""
    b, s, _, h, w = sources.shape
    drawn = (torch.rand(b, s, GRID, GRID, generator=dice) * 2 - 1) * kind.strength
    log_field = F.interpolate(drawn - drawn.mean((2, 3), keepdim=True), (h, w), mode="bilinear", align_corners=True)
    return (sources + AIR) * log_field.exp()[:, :, None] - AIR


def gamma(sources: Sources, kind: Gamma, dice: torch.Generator) -> Sources:
    """Intensity to a power: z = 0 stays where it is, and so does the slope there."""
    b, s = sources.shape[:2]
    power = ((torch.rand(b, s, 1, 1, 1, generator=dice) * 2 - 1) * kind.strength).exp()
    above = (sources / AIR + 1).clamp(min=0)
    return AIR * (above**power - 1) / power


def blur(sources: Sources, kind: Blur, dice: torch.Generator) -> Sources:
    """A Gaussian in the plane, of another width for every contrast."""
    b, s, d, h, w = sources.shape
    sigma = torch.rand(b, s, 1, generator=dice).clamp(min=0.05) * kind.strength
    reach = math.ceil(3 * kind.strength)
    taps = (-0.5 * (torch.arange(-reach, reach + 1) / sigma).square()).exp()  # b s k
    taps = (taps / taps.sum(2, keepdim=True)).repeat_interleave(d, 1).reshape(b * s * d, 1, 1, -1)
    channels = sources.reshape(1, b * s * d, h, w)
    across = F.conv2d(channels, taps, padding=(0, reach), groups=b * s * d)
    return F.conv2d(across, taps.transpose(2, 3), padding=(reach, 0), groups=b * s * d).reshape(b, s, d, h, w)


def thick(sources: Sources, kind: RandomAnisotropy, dice: torch.Generator) -> Sources:
    """Means over thick slices, linear between their middles: along h, along w, or the mean of the slab."""
    axes = torch.randint(3, sources.shape[:2], generator=dice)
    thickness = 2 + torch.rand(sources.shape[:2], generator=dice) * (kind.max_thickness - 2)
    out = torch.empty_like(sources)
    h, w = sources.shape[-2:]
    for i, j in torch.cartesian_prod(*map(torch.arange, sources.shape[:2])).tolist():
        if axes[i, j] == 2:
            out[i, j] = sources[i, j].mean(0)
            continue
        fewer = [h, w]
        fewer[int(axes[i, j])] = max(1, round(fewer[int(axes[i, j])] / float(thickness[i, j])))
        few = F.interpolate(sources[i, j, None], fewer, mode="area")
        out[i, j] = F.interpolate(few, (h, w), mode="bilinear", align_corners=False)[0]
    return out


def noise(sources: Sources, kind: Noise, dice: torch.Generator) -> Sources:
    """Gaussian noise, of another strength for every contrast."""
    b, s = sources.shape[:2]
    sigma = torch.rand(b, s, 1, 1, 1, generator=dice) * kind.strength
    return sources + sigma * torch.randn(sources.shape, generator=dice)
