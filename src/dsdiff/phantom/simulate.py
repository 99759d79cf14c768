"""Simulated patients: images for tests and training without patient data, with a T1ce whose enhancement is known.

A head is deformed from the ICBM maps (`anatomy`), gets lesions and contrast agent (`patient`), and is scanned
(`scanner`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dsdiff.errors import InputError
from dsdiff.phantom import mri_signal
from dsdiff.phantom.patient import Box, SimulatedPatient, sample_patient
from dsdiff.phantom.scanner import Scan, ScanVariability, acquire_image, sample_scan
from dsdiff.volume import Volume

CONTRASTS = ("t1", "t1ce", "t2", "flair")

SOURCE_CONTRASTS = ("t1", "t2", "flair")

TARGET_STYLES = ("same", "own")

GRID_SHAPE = (240, 240, 155)
"""The full grid of BraTS: 1 mm, LPS. A smaller `shape` is its middle."""

AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])

BRATS_LABELS = {"necrosis": 1, "hemorrhage": 1, "solid": 2, "edema": 2, "enhancing": 4}

GENERATION = 3
"""Increased whenever the same seed gives another patient: phantoms of two generations must not be mixed."""

VARIABILITY = {
    "t1": ScanVariability(thick_fraction=0.5, misregistration=0.0),
    "t2": ScanVariability(thick_fraction=0.6, misregistration=1.0),
    "flair": ScanVariability(thick_fraction=0.6, misregistration=1.0, max_noise=0.09),
    "t1ce": ScanVariability(thick_fraction=0.35, misregistration=1.0),
}


@dataclass(frozen=True)
class Phantom:
    """The images of one simulated patient.

    Attributes:
        case: Name of the case.
        volumes: "t1", "t1ce", "t2", "flair": float32 whole numbers, exactly 0 outside the brain and at least 1 inside.
        seg: uint8 BraTS labels: 0, 1 necrotic core, 2 edema and non-enhancing tumour, 4 enhancing tumour.
        enhancement: float32, the noise-free signal that the contrast agent adds, in units of T1ce; 0 without agent.
        parameters: All values that were sampled, ready for JSON.
    """

    case: str
    volumes: dict[str, Volume]
    seg: Volume
    enhancement: Volume
    parameters: dict


def case_name(seed: int) -> str:
    """Name the patient of a seed.

    Args:
        seed: Seed of the patient.

    Returns:
        Name of the case.
    """
    return f"phantom-{seed:04d}"


def simulate_phantom(
    seed: int, *, target_style: str = "same", noise: float | int = 1.0, shape: Sequence[int] = GRID_SHAPE
) -> Phantom:
    """Simulate the patient of a seed. The same seed gives the same patient.

    Args:
        seed: Seed of the random generator.
        target_style: "same": T1ce has the scan of T1, so that T1ce - T1 is `enhancement` plus noise. "own": T1ce has
            its own sequence, bias, gain and geometry, as in clinical use.
        noise: Factor of the noise; 0 for none.
        shape: Size in voxels of a window in the middle of the 240 x 240 x 155 grid, at least 48 each.

    Returns:
        The images.

    Raises:
        InputError: The style or the shape is not allowed, or nilearn is not installed.
    """
    if target_style not in TARGET_STYLES:
        raise InputError(f"target_style is {target_style!r}, must be one of {', '.join(TARGET_STYLES)}")
    if len(shape) != 3 or any(not 48 <= n <= full for n, full in zip(shape, GRID_SHAPE, strict=True)):
        raise InputError(f"shape is {tuple(shape)}, must be three numbers from 48 to {GRID_SHAPE}")

    rng = np.random.default_rng(seed)
    origin = np.array([(full - n) // 2 for n, full in zip(shape, GRID_SHAPE, strict=True)])
    patient, box, patient_parameters = sample_patient(rng, shape, origin)
    scans = _sample_scans(rng, patient, target_style, noise)
    images, enhancement = _acquire_images(patient, scans, rng)
    seg = _label_voxels(patient.fractions, patient.brain)

    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ origin
    settings = {
        "generation": GENERATION,
        "seed": int(seed),
        "target_style": target_style,
        "noise": float(noise),
        "shape": [int(n) for n in shape],
    }
    scan_parameters = {name: scan.parameters() for name, scan in scans.items()}
    return Phantom(
        case=case_name(seed),
        volumes={name: Volume(_place_on_grid(images[name], box, shape), affine) for name in CONTRASTS},
        seg=Volume(_place_on_grid(seg, box, shape), affine),
        enhancement=Volume(_place_on_grid(enhancement, box, shape), affine),
        parameters=settings | patient_parameters | {"scans": scan_parameters},
    )


def _sample_scans(
    rng: np.random.Generator, patient: SimulatedPatient, target_style: str, noise: float
) -> dict[str, Scan]:
    """Sample the scans of the four contrasts. T1ce has the scan of T1 unless `target_style` is "own"."""
    shape, csf_t1 = patient.brain.shape, patient.tissues["csf"].t1
    t1 = sample_scan(rng, shape, mri_signal.sample_t1_sequence(rng), VARIABILITY["t1"], noise)
    t2 = sample_scan(rng, shape, mri_signal.sample_t2_sequence(rng), VARIABILITY["t2"], noise)
    flair = sample_scan(rng, shape, mri_signal.sample_flair_sequence(csf_t1, rng), VARIABILITY["flair"], noise)
    if target_style == "same":
        t1ce = t1
    else:
        t1ce = sample_scan(rng, shape, mri_signal.sample_t1_sequence(rng), VARIABILITY["t1ce"], noise)
    return {"t1": t1, "t2": t2, "flair": flair, "t1ce": t1ce}


def _acquire_images(
    patient: SimulatedPatient, scans: dict[str, Scan], rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the four images and the true enhancement, whole numbers, in the box around the brain."""
    images = {}
    for name in SOURCE_CONTRASTS:
        signal = patient.tissue_signal(scans[name].sequence)
        images[name], _ = acquire_image(signal, None, scans[name], patient.brain, rng)

    scan = scans["t1ce"]
    signal, agent_signal = patient.tissue_signal(scan.sequence), patient.agent_signal(scan.sequence)
    images["t1ce"], enhancement = acquire_image(signal, agent_signal, scan, patient.brain, rng)
    return images, enhancement


def _label_voxels(fractions: dict[str, np.ndarray], brain: np.ndarray) -> np.ndarray:
    """Return BraTS labels (uint8) where lesion fills at least half a voxel: the label with the largest fraction."""
    labels = (1, 2, 4)
    label_fractions = []
    for label in labels:
        tissues = [name for name, tissue_label in BRATS_LABELS.items() if tissue_label == label]
        label_fractions.append(np.asarray(sum(fractions[name] for name in tissues)))

    stacked = np.stack(label_fractions)
    largest = np.array(labels, np.uint8)[stacked.argmax(0)]
    return np.where((stacked.sum(0) >= 0.5) & brain, largest, 0).astype(np.uint8)


def _place_on_grid(image: np.ndarray, box: Box, shape: Sequence[int]) -> np.ndarray:
    """Return an image of the box on the full grid, 0 elsewhere; float32 unless it holds labels."""
    grid = np.zeros(tuple(shape), np.uint8 if image.dtype == np.uint8 else np.float32)
    grid[box] = image
    return grid
