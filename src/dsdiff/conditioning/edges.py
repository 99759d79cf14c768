"""Structure guidance: an edge map of every source, in float and deterministic."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsdiff.errors import ConfigError

Maps = Float[Tensor, "b s h w"]
LOW, HIGH = 0.1, 0.3  # of Canny, in robust z-scores per pixel
REACH = 16  # pixels over which a weak edge is followed from a strong one


def gradients(images: Maps) -> Float[Tensor, "2 b s h w"]:
    """Sobel's differences along w and along h, in the images' unit per pixel; edges are replicated at the border."""
    s = images.shape[1]
    kernel = images.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernels = torch.stack([kernel, kernel.T])[:, None].repeat(s, 1, 1, 1)  # (s 2) 1 3 3
    gradient = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernels, groups=s)  # b (s 2) h w
    return gradient.unflatten(1, (s, 2)).movedim(2, 0)


def sobel(images: Maps) -> Maps:
    """Magnitude of the Sobel gradient, in the images' unit per pixel."""
    return gradients(images).square().sum(0).sqrt()


def laplacian(images: Maps) -> Maps:
    """Sum of the second differences along h and w: signed, zero on a ramp."""
    kernel = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel.repeat(images.shape[1], 1, 1, 1), groups=images.shape[1])


def canny(images: Maps) -> Maps:
    """Thin edges: Sobel's magnitude of the blurred image where it is largest across the edge, strong or joined to what
    is strong; zero elsewhere.

    Source: Canny 1986 (doi:10.1109/TPAMI.1986.4767851), with the magnitude kept rather than made 0 or 1.
    """
    across, down = gradients(_blurred(images))
    magnitude = (across.square() + down.square()).sqrt()
    thin = _is_ridge(magnitude, across, down)
    kept, weak = thin & (magnitude > HIGH), thin & (magnitude > LOW)
    for _ in range(REACH):
        kept = weak & (F.max_pool2d(kept.type(images.dtype), 3, 1, 1) > 0)
    return magnitude * kept


def _blurred(images: Maps, sigma: float = 1.4) -> Maps:
    taps = torch.exp(-torch.arange(-4.0, 5.0, device=images.device).square() / (2 * sigma**2))
    kernel = (taps[:, None] * taps / taps.sum() ** 2).to(images)[None, None]
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
    return F.conv2d(padded, kernel.repeat(images.shape[1], 1, 1, 1), groups=images.shape[1])


def _is_ridge(magnitude: Maps, across: Maps, down: Maps) -> Bool[Tensor, "b s h w"]:
    """Where the magnitude is not below that of either neighbour in the direction of the gradient (one of four)."""
    sector = (torch.atan2(down, across) / (math.pi / 4)).round().remainder(4)
    ridge = torch.zeros_like(magnitude, dtype=torch.bool)
    for index, (dh, dw) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        one, other = (_shifted(magnitude, sign * dh, sign * dw) for sign in (1, -1))
        ridge |= (sector == index) & (magnitude >= one) & (magnitude > other)
    return ridge


def _shifted(maps: Maps, dh: int, dw: int) -> Maps:
    """The neighbour dh down and dw to the right of every pixel; 0 beyond the border."""
    h, w = maps.shape[-2:]
    return F.pad(maps, (1, 1, 1, 1))[..., 1 + dh : 1 + dh + h, 1 + dw : 1 + dw + w]


class LearnedStructure(nn.Module):
    """An edge map learnt with the network, the same for every contrast; never negative."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1), nn.Softplus()
        )

    def forward(self, images: Maps) -> Maps:
        return self.layers(images.flatten(0, 1)[:, None])[:, 0].unflatten(0, images.shape[:2])


STRUCTURES: dict[str, Callable[[Maps], Maps] | None] = {
    "sobel": sobel,
    "canny": canny,
    "laplacian": laplacian,
    "learned": None,  # has weights: see `network.Conditioner`
    "none": None,
}


def structure(name: str, images: Maps) -> Maps | None:
    """The edge maps that `name` stands for, None where none is computed without weights.

    Raises `ConfigError` for an unknown name.
    """
    if name not in STRUCTURES:
        raise ConfigError(f"structure '{name}' is unknown; there are: {', '.join(STRUCTURES)}")
    operator = STRUCTURES[name]
    if operator is None:
        return None
    if operator is sobel:  # as the shipped model was trained: in the precision of the network
        return operator(images)
    with torch.autocast(images.device.type, enabled=False):
        return operator(images.float()).to(images)
