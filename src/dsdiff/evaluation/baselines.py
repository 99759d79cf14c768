"""What needs no network: the ceiling that a model is judged by (the floor is a copy of T1 and `data.style`)."""

import numpy as np
from scipy import ndimage

from dsdiff.evaluation.voxelwise import Image, Mask


def blurred_truth(truth: Image, brain: Mask) -> Image:
    """The truth seen through a Gaussian of one voxel, 1 mm in BraTS: what slightly short sight would score."""
    return ndimage.gaussian_filter(truth.astype(np.float64), 1.0) * brain
