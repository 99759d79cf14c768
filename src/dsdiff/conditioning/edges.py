"""Edge maps of the sources, in floating point and deterministic."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsdiff.errors import ConfigError

Maps = Float[Tensor, "b s h w"]
LOW_THRESHOLD, HIGH_THRESHOLD = 0.1, 0.3  # of Canny, in robust z-scores per pixel
HYSTERESIS_STEPS = 16  # pixels over which Canny follows a weak edge from a strong one


def sobel_gradients(images: Maps) -> Float[Tensor, "2 b s h w"]:
    """Differentiate images with the Sobel kernels. The border repeats the outermost pixels.

    Args:
        images: Slices of every contrast.

    Returns:
        The derivatives along w and along h, in the images' unit per pixel.
    """
    n_contrasts = images.shape[1]
    kernel = images.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    kernels = torch.stack([kernel, kernel.T])[:, None].repeat(n_contrasts, 1, 1, 1)  # (s 2) 1 3 3
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    gradients = F.conv2d(padded, kernels, groups=n_contrasts)  # b (s 2) h w
    return gradients.unflatten(1, (n_contrasts, 2)).movedim(2, 0)


def sobel(images: Maps) -> Maps:
    """Compute the magnitude of the Sobel gradient.

    Args:
        images: Slices of every contrast.

    Returns:
        Edge maps of at least 0, in the images' unit per pixel.
    """
    return sobel_gradients(images).square().sum(0).sqrt()


def laplacian(images: Maps) -> Maps:
    """Add the second differences along h and w.

    Args:
        images: Slices of every contrast.

    Returns:
        Signed edge maps; zero on a ramp.
    """
    kernel = images.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel.repeat(images.shape[1], 1, 1, 1), groups=images.shape[1])


def canny(images: Maps) -> Maps:
    """Find thin edges: ridges of the gradient that are strong, or weak and connected to a strong one.

    Args:
        images: Slices of every contrast, robust z-scores.

    Returns:
        The Sobel magnitude of the blurred image at the edges, zero elsewhere.

    Source: Canny 1986 (doi:10.1109/TPAMI.1986.4767851), with the magnitude in place of 0 and 1.
    """
    along_w, along_h = sobel_gradients(_blur(images))
    magnitude = (along_w.square() + along_h.square()).sqrt()

    is_ridge = _is_ridge(magnitude, along_w, along_h)
    edges = is_ridge & (magnitude > HIGH_THRESHOLD)
    weak_edges = is_ridge & (magnitude > LOW_THRESHOLD)
    for _ in range(HYSTERESIS_STEPS):
        edges = weak_edges & (F.max_pool2d(edges.type(images.dtype), 3, 1, 1) > 0)

    return magnitude * edges


def _blur(images: Maps, sigma: float = 1.4) -> Maps:
    """Gaussian blur with a kernel of 9 pixels."""
    taps = torch.exp(-torch.arange(-4.0, 5.0, device=images.device).square() / (2 * sigma**2))
    kernel = (taps[:, None] * taps / taps.sum() ** 2).to(images)[None, None]
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
    return F.conv2d(padded, kernel.repeat(images.shape[1], 1, 1, 1), groups=images.shape[1])


def _is_ridge(magnitude: Maps, along_w: Maps, along_h: Maps) -> Bool[Tensor, "b s h w"]:
    """Whether neither neighbor in the direction of the gradient (one of four) has a larger magnitude."""
    sector = (torch.atan2(along_h, along_w) / (math.pi / 4)).round().remainder(4)

    ridge = torch.zeros_like(magnitude, dtype=torch.bool)
    for index, (dh, dw) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        next_neighbor = _shift(magnitude, dh, dw)
        previous_neighbor = _shift(magnitude, -dh, -dw)
        ridge |= (sector == index) & (magnitude >= next_neighbor) & (magnitude > previous_neighbor)
    return ridge


def _shift(maps: Maps, dh: int, dw: int) -> Maps:
    """The value dh down and dw to the right of every pixel; 0 beyond the border."""
    h, w = maps.shape[-2:]
    return F.pad(maps, (1, 1, 1, 1))[..., 1 + dh : 1 + dh + h, 1 + dw : 1 + dw + w]


class LearnedEdges(nn.Module):
    """An edge map that is trained with the network. All contrasts share the weights.

    Args:
        width: Hidden channels.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1), nn.Softplus()
        )

    def forward(self, images: Maps) -> Maps:
        """Compute the edge maps.

        Args:
            images: Slices of every contrast, robust z-scores.

        Returns:
            Edge maps above 0.
        """
        single_channel = images.flatten(0, 1)[:, None]  # (b s) 1 h w
        return self.layers(single_channel)[:, 0].unflatten(0, images.shape[:2])


EDGE_OPERATORS: dict[str, Callable[[Maps], Maps] | None] = {
    "sobel": sobel,
    "canny": canny,
    "laplacian": laplacian,
    "learned": None,  # has weights: see `network.Conditioner`
    "none": None,
}


def edge_maps(name: str, images: Maps) -> Maps | None:
    """Compute edge maps with an operator that has no weights.

    Args:
        name: A key of `EDGE_OPERATORS`.
        images: Slices of every contrast, robust z-scores.

    Returns:
        Edge maps; None for "learned" and "none".

    Raises:
        ConfigError: The name is unknown.
    """
    if name not in EDGE_OPERATORS:
        raise ConfigError(f"edges '{name}' is unknown; choose one of {', '.join(EDGE_OPERATORS)}")

    operator = EDGE_OPERATORS[name]
    if operator is None:
        return None
    if operator is sobel:  # in the precision of the network, as the shipped model was trained
        return operator(images)
    with torch.autocast(images.device.type, enabled=False):
        return operator(images.float()).to(images)
