"""Scores of one patient: read the synthetic and the acquired volumes, and score them."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from dsdiff.errors import InputError
from dsdiff.evaluation import brain_scores, calibration, lesion_detection, protocols, texture, voxelwise
from dsdiff.evaluation.pairing import SyntheticFiles
from dsdiff.evaluation.regions import Regions, bounding_box, make_regions
from dsdiff.io import nifti
from dsdiff.io.cases import Case, check_grids, load_volumes
from dsdiff.orientation import to_canonical
from dsdiff.preprocessing import normalize
from dsdiff.volume import Volume, Volume3D, VoxelSpacing, header_warnings

SCORES_VERSION = 5  # raise it if the same volumes get other scores or names, so that stored scores are not mixed
SYNTHETIC, STD = "the synthetic T1ce", "its standard deviation"  # as error messages name these volumes


@dataclass(frozen=True)
class ScoredPatient:
    """The volumes of one patient on RAS+ axes.

    Attributes:
        name: Name of the case.
        image: The synthetic T1ce.
        truth: The acquired T1ce.
        t1: The T1, if there is one.
        std: The standard deviation of the synthetic T1ce, if there is one.
        samples: Samples of the synthetic T1ce, if there are any.
        regions: Brain and tumour masks.
        spacing: Voxel size in mm along x, y, z.
        warnings: What is unusual about the files, one sentence each.
    """

    name: str
    image: Volume3D
    truth: Volume3D
    t1: Volume3D | None
    std: Volume3D | None
    samples: Float[np.ndarray, "n x y z"] | None
    regions: Regions
    spacing: VoxelSpacing
    warnings: tuple[str, ...] = ()

    def crop_to_brain(self) -> "ScoredPatient":
        """Crop all volumes to the brain's bounding box and a voxel around it, 2.5 times fewer voxels.

        Returns:
            The same patient in the box.
        """
        box = bounding_box(self.regions.brain, 1)
        return replace(
            self,
            image=self.image[box],
            truth=self.truth[box],
            t1=None if self.t1 is None else self.t1[box],
            std=None if self.std is None else self.std[box],
            samples=None if self.samples is None else self.samples[:, *box],
            regions=self.regions.crop(box),
        )

    def robust_zscores(self) -> tuple[Volume3D, Volume3D, Volume3D | None]:
        """Bring the images to the robust scale of the brain.

        Returns:
            Synthetic T1ce, acquired T1ce, and T1 if there is one.

        Raises:
            InputError: An image is constant over most of the brain.
        """
        return (
            self.robust_zscore(self.image, "synthetic T1ce"),
            self.robust_zscore(self.truth, "acquired T1ce"),
            None if self.t1 is None else self.robust_zscore(self.t1, "t1"),
        )

    def robust_zscore(self, image: Volume3D, label: str) -> Volume3D:
        """Bring one image to the robust scale of the brain.

        Args:
            image: A volume on the grid of this patient.
            label: Name of the volume for the error message.

        Returns:
            Robust z-scores.

        Raises:
            InputError: The image is constant over most of the brain.
        """
        try:
            return voxelwise.robust_zscore(image, self.regions.brain)
        except ValueError as error:
            raise InputError(f"the {label} of case {self.name} cannot be scored: {error}") from error


def read_patient(synthetic: SyntheticFiles, case: Case) -> ScoredPatient:
    """Read the volumes of one patient.

    The brain is the foreground of T1, or of the acquired T1ce if there is no T1.

    Args:
        synthetic: Files of the synthetic T1ce; there is at least the T1ce.
        case: The acquired case.

    Returns:
        The patient.

    Raises:
        CaseError: The acquired T1ce is missing.
        GeometryError: The volumes are on different grids.
        InputError: A file cannot be used, or the synthetic T1ce is a copy of the acquired one.
    """
    assert synthetic.mean is not None
    if "t1ce" in case.files and synthetic.mean.samefile(case.files["t1ce"]):
        raise InputError(
            f"the synthetic T1ce of case {case.name} is the acquired one: {synthetic.mean}; is PRED the right folder?"
        )

    contrasts = ("t1ce", *(name for name in ("t1", "seg") if name in case.contrasts))
    volumes: dict[str, Volume] = load_volumes(case, contrasts)
    sample_files = {f"sample {k}": path for k, path in enumerate(synthetic.samples)}
    files = {SYNTHETIC: synthetic.mean} | ({STD: synthetic.std} if synthetic.std else {}) | sample_files
    volumes |= {label: nifti.read_nifti(path) for label, path in files.items()}
    check_grids(volumes, case.name)

    canonical = {label: to_canonical(volume) for label, volume in volumes.items()}
    arrays = {label: volume.array for label, volume in canonical.items()}
    reference = canonical.get("t1", canonical["t1ce"])
    brain = normalize.find_brain(reference.array)
    if not brain.any():
        raise InputError(f"case {case.name} has no brain: all voxels are background")

    if np.array_equal(arrays[SYNTHETIC][brain], arrays["t1ce"][brain]):
        raise InputError(
            f"the synthetic T1ce of case {case.name} is a copy of the acquired one, equal in every voxel of the brain "
            f"({synthetic.mean}); is PRED the right folder?"
        )

    x, y, z = map(float, reference.spacing)
    samples = [arrays[label] for label in sample_files]
    return ScoredPatient(
        name=case.name,
        image=arrays[SYNTHETIC],
        truth=arrays["t1ce"],
        t1=arrays.get("t1"),
        std=arrays.get(STD),
        samples=np.stack(samples) if samples else None,
        regions=make_regions(brain, arrays.get("seg"), case.name),
        spacing=(x, y, z),
        warnings=tuple(header_warnings(volumes)),
    )


def score_patient(patient: ScoredPatient, protocol: str, fit: bool) -> dict[str, float]:
    """Compute every score of one patient (docs/metrics.md).

    Args:
        patient: The volumes.
        protocol: Name of the protocol for similarity.
        fit: Whether to remove the best linear intensity map before similarity is measured.

    Returns:
        Score name -> value; NaN if there is nothing to measure. Scores of enhancement need T1, scores of calibration
        a standard deviation or samples; else they are absent.

    Raises:
        InputError: An image is constant over most of the brain.
    """
    cropped = patient.crop_to_brain()
    image, truth, t1 = cropped.robust_zscores()
    regions = cropped.regions

    scores = protocols.score_similarity(patient.image, patient.truth, patient.regions, protocol, fit)
    if t1 is not None:
        scores |= brain_scores.score_enhancement(image, truth, t1, regions)
        scores |= lesion_detection.score_lesions(image, truth, t1, regions, cropped.spacing)
    scores["slice_jumps"] = texture.slice_jumps(image, truth, regions.brain)
    scores["sharpness"] = texture.sharpness(image, truth, regions.brain)
    return scores | _score_calibration(cropped, image, truth)


def _score_calibration(patient: ScoredPatient, image: Volume3D, truth: Volume3D) -> dict[str, float]:
    """Score the calibration of samples, or of mean and standard deviation; no scores if there are neither.

    Each sample is brought to the robust scale by itself, so that its brightness and contrast, which depend on the
    scanner, do not count as error.
    """
    brain = patient.regions.brain
    if patient.samples is not None:
        samples = np.stack([patient.robust_zscore(sample, "sample") for sample in patient.samples])
        curve = calibration.sample_coverage(truth, samples, brain)
        std = samples.std(0, ddof=1) if len(samples) > 1 else np.zeros_like(image)
    elif patient.std is not None:
        std = patient.std / voxelwise.robust_scale(patient.image, brain)[1]
        curve = calibration.coverage(truth, image, std, brain)
    else:
        return {}

    scores = {calibration.coverage_name(level): covered for level, covered in curve.items()}
    scores["calibration_error"] = calibration.calibration_error(curve)
    scores["error_correlation"] = calibration.error_correlation(truth, image, std, brain)
    return scores
