"""Scale stacking: recombine the output of a network from Gaussian scales, with weights fitted on held-out patients.

The output is the sum of a style image (tissue contrast, see `dsdiff.style`) and the change from it: contrast agent,
vessels, and noise. A network of few patients is overconfident in its changes, above all in the finest scales and in
tumours. Style and change are split into Gaussian scales and summed with weights from least squares. In the fit, a
tumour counts for more than its volume. A share of faint enhancement can be removed as well.

Source: stacked regression, Wolpert 1992 (Neural Networks 5, 241-259) and Breiman 1996 (Machine Learning 24, 49-64).
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from dsdiff.volume import Mask3D, Volume3D, VoxelSpacing

STYLE_MM = (0.0, 1.0)  # standard deviations of the Gaussians of the style image
CHANGE_MM = (0.0, 1.0, 2.0, 4.0)  # and of the change
Z_CLIP = 6.0  # robust z-scores; a voxel counts no more than this in the fit
TUMOUR_WEIGHT = 0.3  # share of a patient's weight that its tumour has in the fit; it is about 0.07 of the voxels
FAINT_ENHANCEMENT = 2.5  # robust z-scores of T1ce minus T1; attenuation acts on enhancement up to this
TRUNCATE_STD = 3.0  # standard deviations; a Gaussian is zero beyond
MIN_BRAIN_SHARE = 1e-3  # of a Gaussian inside the brain; avoids a division by zero


@dataclass(frozen=True)
class ScaleStacking:
    """Weights of the Gaussian scales, and the attenuation of faint enhancement.

    Attributes:
        style_weights: One for each of `STYLE_MM`.
        change_weights: One for each of `CHANGE_MM`.
        faint_attenuation: Share of the first `FAINT_ENHANCEMENT` of enhancement that is removed, from 0 to 1. It keeps
            the order of voxels by enhancement.
    """

    style_weights: tuple[float, ...]
    change_weights: tuple[float, ...]
    faint_attenuation: float = 0.0

    def __call__(
        self, image: Volume3D, style_image: Volume3D, t1: Volume3D, brain: Mask3D, spacing: VoxelSpacing
    ) -> Volume3D:
        """Recombine a synthetic T1ce.

        Args:
            image: Output of the network, robust z-scores, zero outside the brain.
            style_image: The case in the style that the network was given, in the same units.
            t1: T1 in the same units.
            brain: Brain mask.
            spacing: Voxel size in mm.

        Returns:
            The T1ce in the same units, zero outside the brain.
        """
        weights = (*self.style_weights, *self.change_weights)
        scales = gaussian_scales(image, style_image, brain, spacing)
        combined = sum(weight * scale for weight, scale in zip(weights, scales, strict=True))

        faint = (combined - t1).clip(0, FAINT_ENHANCEMENT)

        return np.asarray(combined - self.faint_attenuation * faint * brain, np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Convert the weights to plain values.

        Returns:
            Lists and numbers that JSON can hold.
        """
        return {
            "style_weights": list(self.style_weights),
            "change_weights": list(self.change_weights),
            "faint_attenuation": self.faint_attenuation,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ScaleStacking":
        """Build the weights from plain values.

        Args:
            fields: What `to_dict` returned.

        Returns:
            The weights.

        Raises:
            ValueError: The numbers of weights are wrong, or the attenuation is out of range.
            KeyError: A field is missing.
        """
        style_weights = tuple(map(float, fields["style_weights"]))
        change_weights = tuple(map(float, fields["change_weights"]))
        if (len(style_weights), len(change_weights)) != (len(STYLE_MM), len(CHANGE_MM)):
            raise ValueError(
                f"{len(style_weights)} style weights and {len(change_weights)} change weights; "
                f"needed are {len(STYLE_MM)} and {len(CHANGE_MM)}"
            )

        faint_attenuation = float(fields["faint_attenuation"])
        if not 0 <= faint_attenuation < 1:
            raise ValueError(f"faint_attenuation is {faint_attenuation}; needed is 0 or more, and less than 1")

        return cls(style_weights, change_weights, faint_attenuation)


@dataclass(frozen=True)
class NormalEquations:
    """Normal equations of the least-squares fit of the weights; every patient counts the same.

    Attributes:
        gram: Weighted products of the scales with each other.
        moment: Weighted products of the scales with the truth.
    """

    gram: Float[np.ndarray, "f f"]
    moment: Float[np.ndarray, " f"]

    def solve(self, faint_attenuation: float = 0.0) -> ScaleStacking:
        """Solve for the weights.

        Args:
            faint_attenuation: Passed on to the result.

        Returns:
            The weights of least squared error.

        Raises:
            numpy.linalg.LinAlgError: The equations are singular.
        """
        weights = np.linalg.solve(self.gram, self.moment).tolist()

        return ScaleStacking(tuple(weights[: len(STYLE_MM)]), tuple(weights[len(STYLE_MM) :]), faint_attenuation)


def normal_equations(
    image: Volume3D,
    style_image: Volume3D,
    truth: Volume3D,
    brain: Mask3D,
    tumour: Mask3D,
    spacing: VoxelSpacing,
) -> NormalEquations:
    """Accumulate the normal equations of one held-out patient.

    Args:
        image: Output of a network that was not trained on the patient, robust z-scores, zero outside the brain.
        style_image: The case in the style that the network was given, in the same units.
        truth: Acquired T1ce in the same units.
        brain: Brain mask.
        tumour: Tumour mask; it has `TUMOUR_WEIGHT` of the weight, unless it is empty or fills the brain.
        spacing: Voxel size in mm.

    Returns:
        The equations; the weights of all voxels sum to 1.
    """
    columns = [scale[brain].clip(-Z_CLIP, Z_CLIP) for scale in gaussian_scales(image, style_image, brain, spacing)]
    design = np.stack(columns).astype(np.float64)

    in_tumour = tumour[brain]
    n_tumour = int(in_tumour.sum())
    weights = np.full(in_tumour.size, 1 / in_tumour.size)
    if 0 < n_tumour < in_tumour.size:
        weights = np.where(in_tumour, TUMOUR_WEIGHT / n_tumour, (1 - TUMOUR_WEIGHT) / (in_tumour.size - n_tumour))

    weighted = design * weights

    return NormalEquations(weighted @ design.T, weighted @ truth[brain].clip(-Z_CLIP, Z_CLIP))


def sum_equations(equations: Iterable[NormalEquations]) -> NormalEquations:
    """Sum the normal equations of several patients.

    Args:
        equations: Those of each patient.

    Returns:
        Their sum.
    """
    patients = list(equations)

    return NormalEquations(
        np.sum([patient.gram for patient in patients], 0), np.sum([patient.moment for patient in patients], 0)
    )


def gaussian_scales(image: Volume3D, style_image: Volume3D, brain: Mask3D, spacing: VoxelSpacing) -> list[Volume3D]:
    """Split an output into Gaussian scales; each is a weighted mean over the brain.

    Args:
        image: Output of the network, zero outside the brain.
        style_image: The case in the style that the network was given.
        brain: Brain mask.
        spacing: Voxel size in mm.

    Returns:
        The style image at `STYLE_MM`, then the change from it at `CHANGE_MM`; zero outside the brain.
    """
    change = image - style_image
    inputs = [(style_image, mm) for mm in STYLE_MM] + [(change, mm) for mm in CHANGE_MM]
    brain_shares = {mm: _blur(brain.astype(np.float32), mm, spacing) for mm in dict.fromkeys((*STYLE_MM, *CHANGE_MM))}
    mean_over_brain = partial(_mean_over_brain, brain=brain, brain_shares=brain_shares, spacing=spacing)

    with ThreadPoolExecutor(2) as pool:  # SciPy's filters release Python's lock
        return list(pool.map(mean_over_brain, *zip(*inputs, strict=True)))


def _mean_over_brain(
    image: Volume3D, mm: float, brain: Mask3D, brain_shares: dict[float, Volume3D], spacing: VoxelSpacing
) -> Volume3D:
    return np.where(brain, _blur(image, mm, spacing) / np.maximum(brain_shares[mm], MIN_BRAIN_SHARE), 0)


def _blur(image: Volume3D, mm: float, spacing: VoxelSpacing) -> Volume3D:
    if not mm:
        return image

    stds: Sequence[float] = [mm / size for size in spacing]

    return ndimage.gaussian_filter(image, stds, mode="constant", truncate=TRUNCATE_STD)
