"""Structure guidance: an edge map of every source, in float and deterministic."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dsdiff.errors import ConfigError


def sobel(images: Float[Tensor, "b s h w"]) -> Float[Tensor, "b s h w"]:
    """Magnitude of the Sobel gradient, in the images' unit per pixel; edges are replicated beyond the border."""
    s = images.shape[1]
    kernel = images.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernels = torch.stack([kernel, kernel.T])[:, None].repeat(s, 1, 1, 1)  # (s 2) 1 3 3
    gradient = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernels, groups=s)  # b (s 2) h w
    return gradient.unflatten(1, (s, 2)).square().sum(2).sqrt()


STRUCTURES: dict[str, Callable[[Float[Tensor, "b s h w"]], Float[Tensor, "b s h w"]] | None] = {
    "sobel": sobel,
    "none": None,
}


def structure(name: str, images: Float[Tensor, "b s h w"]) -> Float[Tensor, "b s h w"] | None:
    """The edge maps that `name` stands for, None for "none". Raises `ConfigError` for an unknown name."""
    if name not in STRUCTURES:
        raise ConfigError(f"structure '{name}' is unknown; there are: {', '.join(STRUCTURES)}")
    operator = STRUCTURES[name]
    return None if operator is None else operator(images)
