"""One patient: read what was made and what is true, and score it."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from dsdiff.errors import InputError
from dsdiff.evaluation import brain_scores, calibration, enhancement, protocols, texture, voxelwise
from dsdiff.evaluation.pairing import Synthetic
from dsdiff.evaluation.regions import Regions, bounding_box, regions
from dsdiff.evaluation.voxelwise import Image, Mask
from dsdiff.io import cases, nifti
from dsdiff.io.cases import Case
from dsdiff.preprocessing import normalize
from dsdiff.volume import Volume, to_canonical

VERSION = 4  # of the scores: one more whenever the same volumes score otherwise, so that kept scores are not mixed up


@dataclass(frozen=True)
class Patient:
    """What is known of one patient, on RAS+ axes. t1, std and samples are None where there are none."""

    name: str
    image: Image
    truth: Image
    t1: Image | None
    std: Image | None
    samples: Float[np.ndarray, "n x y z"] | None
    regions: Regions
    spacing: tuple[float, float, float]

    def boxed(self) -> "Patient":
        """The same patient in the brain's bounding box and a voxel about it: 2.5 times less to look at."""
        box = bounding_box(self.regions.brain, 1)
        where = self.regions
        return replace(
            self,
            image=self.image[box],
            truth=self.truth[box],
            t1=None if self.t1 is None else self.t1[box],
            std=None if self.std is None else self.std[box],
            samples=None if self.samples is None else self.samples[:, *box],
            regions=Regions(where.brain[box], where.tumour[box], where.enhancing[box]),
        )

    def robust(self) -> tuple[Image, Image, Image | None]:
        """Made, true and T1 on the robust scale of the brain. Raises `InputError` for a constant image."""
        brain = self.regions.brain
        return (
            scaled(self.image, brain, "synthetic T1ce", self.name),
            scaled(self.truth, brain, "acquired T1ce", self.name),
            None if self.t1 is None else scaled(self.t1, brain, "t1", self.name),
        )


def scaled(image: Image, brain: Mask, what: str, case: str) -> Image:
    """An image on the robust scale. Raises `InputError` where it is constant over most of the brain."""
    try:
        return voxelwise.robust(image, brain)
    except ValueError as error:
        raise InputError(f"the {what} of case {case} cannot be scored: {error}") from error


def read(made: Synthetic, case: Case) -> Patient:
    """Read one patient; the brain is T1's foreground, or the acquired T1ce's where there is no T1.

    Raises `CaseError` for an absent contrast, `GeometryError` for different grids, `InputError` for a useless file.
    """
    assert made.mean is not None
    if "t1ce" in case.files and made.mean.samefile(case.files["t1ce"]):
        raise InputError(
            f"the synthetic T1ce of case {case.name} is the acquired one: {made.mean}; is PRED the right folder?"
        )
    wanted = ("t1ce", *(name for name in ("t1", "seg") if name in case.named))
    volumes: dict[str, Volume] = cases.load(case, wanted)
    volumes["the synthetic T1ce"] = nifti.read(made.mean)
    extra = {"its standard deviation": made.std} if made.std else {}
    extra |= {f"sample {k}": path for k, path in enumerate(made.samples)}
    volumes |= {name: nifti.read(path) for name, path in extra.items()}
    cases.check_grids(volumes, case.name)
    arrays = {name: to_canonical(volume) for name, volume in volumes.items()}
    reference = arrays.get("t1", arrays["t1ce"])
    brain = normalize.find_brain(reference.array)
    if not brain.any():
        raise InputError(f"case {case.name} holds no brain: nothing differs from the background")
    x, y, z = map(float, reference.spacing)
    samples = [arrays[name].array for name in extra if name.startswith("sample")]
    return Patient(
        case.name,
        arrays["the synthetic T1ce"].array,
        arrays["t1ce"].array,
        arrays["t1"].array if "t1" in arrays else None,
        arrays["its standard deviation"].array if made.std else None,
        np.stack(samples) if samples else None,
        regions(brain, arrays["seg"].array if "seg" in arrays else None, case.name),
        (x, y, z),
    )


def score(patient: Patient, protocol: str, fit: bool) -> dict[str, float]:
    """Every score of one patient by name (docs/metrics.md); NaN where there is nothing to measure."""
    small = patient.boxed()
    image, truth, t1 = small.robust()
    brain = small.regions.brain
    found = protocols.likeness(patient.image, patient.truth, patient.regions, protocol, fit)
    if t1 is not None:
        found |= brain_scores.enhancement(image, truth, t1, small.regions)
        found |= enhancement.score(image, truth, t1, small.regions, small.spacing)
    found["slice_jumps"] = texture.slice_jumps(image, truth, brain)
    found["sharpness"] = texture.sharpness(image, truth, brain)
    return found | _calibration(small, image, truth)


def _calibration(patient: Patient, image: Image, truth: Image) -> dict[str, float]:
    """Calibration of samples, or of mean and standard deviation; nothing where there are neither.

    Each on the robust scale: what a sample's brightness and contrast say of the scanner is not counted as error.
    """
    brain = patient.regions.brain
    if patient.samples is not None:
        drawn = np.stack([scaled(sample, brain, "sample", patient.name) for sample in patient.samples])
        curve = calibration.sample_coverage(truth, drawn, brain)
        spread = drawn.std(0, ddof=1) if len(drawn) > 1 else np.zeros_like(image)
    elif patient.std is not None:
        spread = patient.std / voxelwise.robust_scale(patient.image, brain)[1]
        curve = calibration.coverage(truth, image, spread, brain)
    else:
        return {}
    found = {calibration.name_of(level): share for level, share in curve.items()}
    return found | {
        "calibration_error": calibration.calibration_error(curve),
        "error_correlation": calibration.error_correlation(truth, image, spread, brain),
    }
