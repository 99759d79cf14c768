"""Heads at the bottleneck of the disentangled UNets: features of one kind, weighted by channel.

Source: the squeeze-excitation of Hu et al. 2018 (arXiv:1709.01507, eq. 2-4).
"""

from jaxtyping import Float
from torch import Tensor, nn

from dsdiff.layers.primitives import normalization


class SqueezeExcitation(nn.Module):
    """Scales each channel by a function of the means of all channels.

    Source: Hu et al. 2018 (arXiv:1709.01507, eq. 2-4).

    Args:
        channels: Channels of the features.
        reduction: Factor by which the hidden layer is narrower.
        bias: Whether both linear layers have a bias.
    """

    def __init__(self, channels: int, reduction: int = 8, bias: bool = True) -> None:
        super().__init__()
        hidden = channels // reduction
        self.fc = nn.Sequential(nn.Linear(channels, hidden, bias), nn.ReLU(), nn.Linear(hidden, channels, bias))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale the channels.

        Args:
            x: Features.

        Returns:
            Features of the same shape.
        """
        scale = self.fc(x.mean((2, 3))).sigmoid()[:, :, None, None]  # b c 1 1
        return x * scale.type(x.dtype)


class ResidualHead(nn.Module):
    """A residual 3 x 3 convolution, then a 1 x 1 convolution to half the width. Norm and SiLU precede each of them.

    Args:
        channels: Channels of the input, a multiple of 32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(normalization(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))
        self.reduce = nn.Sequential(normalization(channels), nn.SiLU(), nn.Conv2d(channels, channels // 2, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        """Compute features of one kind.

        Args:
            x: Features of one stream.

        Returns:
            Features of half the width.
        """
        return self.reduce(self.residual(x) + x)
