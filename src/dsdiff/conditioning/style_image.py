"""A style as an image: the slice rendered in the tissue contrast of the target, without enhancement.

Every norm over a slice would remove a style that a network receives as numbers. Any backbone can read it as an image.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from dsdiff.style import regression
from dsdiff.style.regression import StyleKind


def render_slice_style(
    weights: Float[Tensor, " f"],
    kind: StyleKind,
    sources: Float[Tensor, "b s d h w"],
    present: Bool[Tensor, "b s"],
) -> Float[Tensor, "b 1 h w"]:
    """Render the middle slices in a style.

    Args:
        weights: See `style.regression.StyleCode`.
        kind: Linear or curves.
        sources: Robust z-scores.
        present: The contrasts that each case has. An absent contrast counts as its median, 0.

    Returns:
        Robust z-scores. They are zero outside the brain, and at voxels where every contrast equals its median exactly.
        If T1 is the only contrast and has integer values, these are a few percent of the brain.
    """
    middle = sources[:, :, sources.shape[2] // 2].where(present[:, :, None, None], 0)  # b s h w
    image = regression.render_style(weights.to(middle), kind, middle.transpose(0, 1))  # b h w

    return image[:, None] * (middle != 0).any(1, keepdim=True)
