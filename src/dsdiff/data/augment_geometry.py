"""Random flips, rotations and bends of training slices: sources, target, style image and region map move alike."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dsdiff.data.settings import Affine, AugmentConfig, Elastic


def augment_geometry(
    images: Float[Tensor, "b c h w"],
    labels: Float[Tensor, "b n h w"],
    config: AugmentConfig,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b n h w"]]:
    """Flip, rotate and bend images and label maps alike.

    Args:
        images: (b, c, h, w) images, interpolated linearly. h runs from left to right.
        labels: (b, n, h, w) label maps, which keep their values.
        config: Augmentations with their probabilities and strengths.
        generator: Source of all random numbers.

    Returns:
        The moved images and label maps, zero where the slice ends.
    """
    batch_size, _, height, width = images.shape
    size = (height, width)
    is_flipped = torch.zeros(batch_size, dtype=torch.bool)
    if config.flip.probability:
        is_flipped = torch.rand(batch_size, generator=generator) < config.flip.probability
    if not config.affine.probability and not config.elastic.probability:
        return flip_left_right(images, is_flipped), flip_left_right(labels, is_flipped)

    grid = sample_affine_grid(batch_size, size, config.affine, generator)
    if config.elastic.probability:
        grid = grid + sample_displacement(batch_size, size, config.elastic, generator)
    grid[..., 1] *= torch.where(is_flipped, -1.0, 1.0)[:, None, None]  # flips without another pass over the images
    return warp(images, grid), warp(labels, grid, "nearest")


def flip_left_right(images: Float[Tensor, "b c h w"], is_flipped: Bool[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """Exchange left and right in some slices.

    Args:
        images: (b, c, h, w) images. h runs from left to right.
        is_flipped: (b,) which slices to flip.

    Returns:
        The images.
    """
    return torch.where(is_flipped[:, None, None, None], images.flip(2), images)


def sample_affine_grid(
    batch_size: int, size: tuple[int, int], config: Affine, generator: torch.Generator
) -> Float[Tensor, "b h w 2"]:
    """Sample rotations, scales and shears about the center of a slice.

    The grid has the units of the slice's sides. A slice that is not square is therefore also sheared when it rotates:
    by 5 degrees for a rotation of 12 at 128 x 160.

    Args:
        batch_size: Number of slices.
        size: Height and width of a slice.
        config: Probability and strengths.
        generator: Source of all random numbers.

    Returns:
        A sampling grid for `warp`.
    """
    is_changed = torch.rand(batch_size, generator=generator) < config.probability
    angle, log_scale, shear = ((torch.rand(3, batch_size, generator=generator) * 2 - 1) * is_changed).unbind()
    angle = angle * math.radians(config.degrees)
    scale = (log_scale * config.zoom).exp()
    shear = shear * config.shear

    matrix = torch.zeros(batch_size, 2, 3)
    matrix[:, 0, 0] = scale * angle.cos()
    matrix[:, 0, 1] = -scale * angle.sin() + shear
    matrix[:, 1, 0] = scale * angle.sin()
    matrix[:, 1, 1] = scale * angle.cos()
    return F.affine_grid(matrix, [batch_size, 1, *size], align_corners=False)


def sample_displacement(
    batch_size: int, size: tuple[int, int], config: Elastic, generator: torch.Generator
) -> Float[Tensor, "b h w 2"]:
    """Sample smooth displacements: random at control points, and cubic between them.

    Args:
        batch_size: Number of slices.
        size: Height and width of a slice.
        config: Probability and strengths.
        generator: Source of all random numbers.

    Returns:
        Displacements to be added to a sampling grid.
    """
    is_changed = torch.rand(batch_size, generator=generator) < config.probability
    n_points = [max(2, -(-extent // config.spacing) + 1) for extent in size]
    points = (torch.rand(batch_size, 2, *n_points, generator=generator) * 2 - 1) * is_changed[:, None, None, None]
    displacement = F.interpolate(points, size, mode="bicubic", align_corners=True)  # b 2 h w
    grid_units = torch.tensor([2 * config.pixels / extent for extent in reversed(size)])  # a grid's x runs along w
    return displacement.permute(0, 2, 3, 1) * grid_units


def warp(
    images: Float[Tensor, "b c h w"], grid: Float[Tensor, "b h w 2"], mode: str = "bilinear"
) -> Float[Tensor, "b c h w"]:
    """Sample images on a grid.

    Args:
        images: (b, c, h, w) images.
        grid: (b, h, w, 2) positions along w and h, from -1 to 1.
        mode: "bilinear" or "nearest".

    Returns:
        The images, zero beyond their border.
    """
    return F.grid_sample(images, grid, mode=mode, align_corners=False)
