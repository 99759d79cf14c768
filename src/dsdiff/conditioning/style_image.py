"""The target's style told to the network: the slice as that style would have it without agent.

A style is the code of `data.style`: the weights of a regression of a T1ce on its own sources in healthy brain.
Told as numbers it would be taken out again by every norm over a slice; told as an image it is read by any backbone.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from dsdiff.style import regression


def image(
    code: Float[Tensor, " f"], sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]
) -> Float[Tensor, "b 1 h w"]:
    """The slice in a style; an absent contrast counts as its median, 0.

    It is zero outside the brain, and where every contrast is exactly at its median: some hundredths of the brain where
    T1 is alone and holds whole numbers.
    """
    known = sources[:, :, sources.shape[2] // 2].where(present[:, :, None, None], 0)  # b s h w
    return regression.drawn(code.to(known), known.transpose(0, 1))[:, None] * (known != 0).any(1, keepdim=True)
