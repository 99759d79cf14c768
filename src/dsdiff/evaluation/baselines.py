"""What needs no network: the ceiling that a model is judged by (the floor is a copy of T1 and `data.style`)."""

import numpy as np
from scipy import ndimage

from dsdiff.evaluation.metrics import Image, Mask


def blurred_truth(truth: Image, brain: Mask, sigma_mm: float = 1.0, spacing_mm: float = 1.0) -> Image:
    """The truth seen through a Gaussian: what a sharp-eyed but slightly short-sighted model would score."""
    return ndimage.gaussian_filter(truth.astype(np.float64), sigma_mm / spacing_mm) * brain
