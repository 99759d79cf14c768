"""The scanner: slices, receive bias, noise and registration error turn a signal into a stored image."""

from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from dsdiff.phantom.mri_signal import PulseSequence
from dsdiff.phantom.random_fields import sample_noise_volume

MIN_ENHANCEMENT_FRACTION = 0.01
"""Enhancement below this fraction of the brain's median signal is set to 0: no reader could see it."""


@dataclass(frozen=True)
class Acquisition:
    """How a scan divides the head into slices, and how well the slices are registered.

    Attributes:
        thickness: Slice thickness in mm.
        axis: Axis across the slices: 0, 1 or 2.
        blur_mm: Standard deviation of the blur in the plane.
        shift_mm: Registration error, shift along x, y and z.
        rotation_deg: Registration error, rotation about x, y and z.
    """

    thickness: float
    axis: int
    blur_mm: float
    shift_mm: tuple[float, float, float]
    rotation_deg: tuple[float, float, float]


@dataclass(frozen=True)
class ScanVariability:
    """How much the scans of one contrast vary between patients.

    Attributes:
        thick_fraction: Probability of thick slices.
        misregistration: Size of the registration error: 1 is about 0.4 mm and 0.4 degrees.
        max_noise: Largest standard deviation of the noise, relative to the brain's median signal.
    """

    thick_fraction: float
    misregistration: float
    max_noise: float = 0.05


@dataclass(frozen=True)
class Scan:
    """The scan of one contrast.

    Attributes:
        sequence: The pulse sequence.
        acquisition: Slices and registration error.
        bias: Receive bias (x, y, z) around 1.
        median: Median intensity of the brain in the stored image.
        relative_noise: Standard deviation of the noise, relative to `median`.
    """

    sequence: PulseSequence
    acquisition: Acquisition
    bias: np.ndarray
    median: float
    relative_noise: float

    def parameters(self) -> dict:
        """Convert the scan to plain values.

        Returns:
            A dictionary that is ready for JSON.
        """
        return {
            "sequence": asdict(self.sequence),
            "acquisition": asdict(self.acquisition),
            "bias_std": float(self.bias.std()),
            "median": self.median,
            "noise_relative": self.relative_noise,
        }


def sample_acquisition(rng: np.random.Generator, variability: ScanVariability) -> Acquisition:
    """Sample thin or thick slices and a registration error.

    Args:
        rng: Random generator.
        variability: How much the scans of this contrast vary.

    Returns:
        The acquisition.
    """
    is_thick = rng.random() < variability.thick_fraction
    error = variability.misregistration
    return Acquisition(
        thickness=float(rng.uniform(2.5, 6.0)) if is_thick else float(rng.choice([1.0, 1.5])),
        axis=int(rng.choice([2, 1, 0], p=[0.85, 0.08, 0.07])) if is_thick else 2,
        blur_mm=float(rng.uniform(0.2, 0.55)),
        shift_mm=tuple((error * rng.normal(0, 0.4, 3).clip(-1, 1) + 0.0).tolist()),
        rotation_deg=tuple((error * rng.normal(0, 0.4, 3).clip(-1, 1) + 0.0).tolist()),
    )


def sample_scan(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    sequence: PulseSequence,
    variability: ScanVariability,
    noise: float = 1.0,
) -> Scan:
    """Sample the scan of one contrast.

    Args:
        rng: Random generator.
        shape: Size of the images in voxels.
        sequence: The pulse sequence.
        variability: How much the scans of this contrast vary.
        noise: Factor of the noise; 0 for none.

    Returns:
        The scan.
    """
    acquisition = sample_acquisition(rng, variability)
    bias = np.exp(rng.uniform(0.03, 0.11) * sample_noise_volume(rng, shape, 70.0)).astype(np.float32)
    # Thick slices have more signal per voxel.
    sigma = float(rng.uniform(0.3, 1.0)) * variability.max_noise / (1 + 0.15 * (acquisition.thickness - 1))
    median = float(np.exp(rng.uniform(np.log(500), np.log(1500))))
    return Scan(sequence, acquisition, bias, median, noise * sigma)


def acquire_slices(volume: np.ndarray, acquisition: Acquisition) -> np.ndarray:
    """Blur a volume in the plane and average it over the thickness of each slice.

    Args:
        volume: (x, y, z) with voxels of 1 mm.
        acquisition: The slices.

    Returns:
        The volume on the grid of the slices.
    """
    axis, thickness = acquisition.axis, acquisition.thickness
    sigma = [acquisition.blur_mm] * 3
    sigma[axis] = 0
    blurred = ndimage.gaussian_filter(volume, sigma, truncate=3.0)
    if thickness <= 1:
        return blurred

    # A box as wide as a slice, also if that is not a whole number of voxels.
    half = (thickness - 1) / 2
    reach = int(np.ceil(half))
    weights = np.ones(2 * reach + 1)
    weights[[0, -1]] = 1 - (reach - half) if reach else 1
    averaged = ndimage.correlate1d(blurred, weights / weights.sum(), axis=axis, mode="nearest")

    last = volume.shape[axis] - 1
    positions = np.arange(0, volume.shape[axis] + thickness - 1, thickness)
    lower = np.floor(positions).astype(int).clip(0, last)
    upper = (lower + 1).clip(0, last)
    weight_shape = [1, 1, 1]
    weight_shape[axis] = -1
    upper_weight = (positions - np.floor(positions)).reshape(weight_shape).astype(np.float32)
    return np.take(averaged, lower, axis) * (1 - upper_weight) + np.take(averaged, upper, axis) * upper_weight


def resample_to_grid(
    slices: np.ndarray, acquisition: Acquisition, shape: tuple[int, ...], rotation: np.ndarray
) -> np.ndarray:
    """Resample slices to the 1 mm grid by linear interpolation, moved by the registration error.

    Args:
        slices: Result of `acquire_slices`.
        acquisition: The same acquisition.
        shape: Size of the 1 mm grid.
        rotation: (3, 3) rotation by `acquisition.rotation_deg`.

    Returns:
        (x, y, z) of `shape`.
    """
    center = (np.array(shape) - 1) / 2
    matrix = rotation.copy()
    offset = center - rotation @ center + np.array(acquisition.shift_mm)
    matrix[acquisition.axis] /= acquisition.thickness
    offset[acquisition.axis] /= acquisition.thickness
    if np.array_equal(matrix, np.eye(3)) and not offset.any():
        return slices
    return ndimage.affine_transform(slices, matrix, offset, output_shape=shape, order=1, mode="nearest")


def add_rician_noise(clean: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise to both channels of a signal and take the magnitude.

    Source: Gudbjartsson & Patz 1995, MRM 34:910.

    Args:
        clean: Signal without noise.
        sigma: Standard deviation of the noise in each channel.
        rng: Random generator.

    Returns:
        Magnitude of the noisy signal.
    """
    real = clean + sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    return np.sqrt(real**2 + imaginary**2)


def acquire_image(
    tissue_signal: np.ndarray,
    agent_signal: np.ndarray | None,
    scan: Scan,
    brain: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Acquire one image: whole numbers, 0 outside the brain.

    The enhancement is added last, as a whole number, so that a noiseless T1ce minus T1 equals the enhancement exactly.

    Args:
        tissue_signal: Signal without contrast agent, (x, y, z).
        agent_signal: Signal that the contrast agent adds, or None.
        scan: Slices, bias, noise and intensity scale.
        brain: Mask (x, y, z).
        rng: Random generator.

    Returns:
        The image and its enhancement.
    """
    rotation = Rotation.from_euler("xyz", scan.acquisition.rotation_deg, degrees=True).as_matrix()

    def resample(slices: np.ndarray) -> np.ndarray:
        return resample_to_grid(slices, scan.acquisition, brain.shape, rotation)

    slices = acquire_slices(tissue_signal * scan.bias, scan.acquisition)
    clean = resample(slices)
    gain = np.float32(scan.median / np.median(clean[brain]))
    if agent_signal is None:
        agent_slices = np.zeros_like(slices)
    else:
        agent_slices = acquire_slices(agent_signal * scan.bias, scan.acquisition)

    if scan.relative_noise > 0:
        received = gain * (slices + agent_slices)
        noisy = add_rician_noise(received, scan.relative_noise * scan.median, rng)
        image = clean * gain + resample(noisy - received)
    else:
        image = clean * gain

    enhancement = np.rint(gain * resample(agent_slices)) * brain
    enhancement[enhancement < MIN_ENHANCEMENT_FRACTION * scan.median] = 0
    return (np.rint(image).clip(1) + enhancement) * brain, enhancement
