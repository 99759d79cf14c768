"""The target's style told to the network: the slice as that style would have it without agent.

A style is the code of `data.style`: the weights of a linear regression of a T1ce on its sources in healthy brain.
Told as numbers it would be taken out again by every norm over a slice; told as an image it is read by any backbone.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def image(
    code: Float[Tensor, " f"], sources: Float[Tensor, "b s d h w"], present: Bool[Tensor, "b s"]
) -> Float[Tensor, "b 1 h w"]:
    """The slice in a style: weights of the sources and a constant; an absent contrast counts as its median, 0."""
    known = sources[:, :, sources.shape[2] // 2].where(present[:, :, None, None], 0)  # b s h w
    weights = code[:-1].to(known)
    drawn = torch.einsum("s,bshw->bhw", weights, known)[:, None] + code[-1].to(known)
    return drawn * (known != 0).any(1, keepdim=True)
