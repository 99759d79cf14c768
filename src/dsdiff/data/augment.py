"""Random changes of training slices: what differs between patients and sites and must not matter."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def flip(images: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """Exchange left and right in half of the slices (h runs from left to right)."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(2), images)


def affine_grid(
    batch: int, size: tuple[int, int], generator: torch.Generator, degrees: float = 12.0, zoom: float = 0.12
) -> Float[Tensor, "b h w 2"]:
    """A sampling grid of a random rotation, scale and shear about the slice's middle, for `warp`."""
    angle, log_scale, shear = (torch.rand(3, batch, generator=generator) * 2 - 1).unbind()
    angle, scale, shear = angle * math.radians(degrees), (log_scale * zoom).exp(), shear * 0.08
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos(), -scale * angle.sin() + shear
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    return F.affine_grid(theta, [batch, 1, *size], align_corners=False)


def warp(
    images: Float[Tensor, "b c h w"], grid: Float[Tensor, "b h w 2"], mode: str = "bilinear"
) -> Float[Tensor, "b c h w"]:
    """Sample images on a grid; zero beyond their border."""
    return F.grid_sample(images, grid, mode=mode, align_corners=False)


def restyle(
    sources: Float[Tensor, "b s d h w"], generator: torch.Generator, strength: float = 0.25
) -> Float[Tensor, "b s d h w"]:
    """Another scanner: per contrast a random gain, a smooth curve of intensity and a smooth field of bias.

    The curve is z + a z^2 / (2 + |z|), monotone for |a| < 1; the bias is a plane plus a saddle over the slice. Zero
    (outside the brain) stays zero.
    """
    b, s, _, h, w = sources.shape
    draw = (torch.rand(5, b, s, 1, 1, 1, generator=generator) * 2 - 1) * strength
    gain, curve, tilt_h, tilt_w, saddle = draw.unbind()
    y, x = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)[None]
    bias = tilt_h * y + tilt_w * x + saddle * (x * y)
    curved = sources + curve * sources.square() / (2 + sources.abs())
    return curved * (1 + gain) + bias * (sources != 0)
