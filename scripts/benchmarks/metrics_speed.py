"""Time the scores of one 240 x 240 x 155 volume with dsdiff, torchmetrics and MONAI.

python scripts/benchmarks/metrics_speed.py [--rounds 2] [--cohort 5]

The volume is a simulated brain: an ellipsoid of smooth noise with a tumour. Rounds are interleaved. Prints the fastest
round of each score with its CPU time and value, and then the peak memory of this process after each patient of a cohort
of the same volume. Needs pip install 'dsdiff-mri[dev]'.
"""

import resource
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from benchmark_files import create_parser
from monai.metrics import MultiScaleSSIMMetric, SSIMMetric
from scipy import ndimage
from torchmetrics.functional import image as torchmetrics

from dsdiff.evaluation import lesion_detection, patient_scores, protocols, ssim, texture, voxelwise
from dsdiff.evaluation.patient_scores import ScoredPatient
from dsdiff.evaluation.regions import make_regions

SHAPE = (240, 240, 155)
Job = Callable[[], object]


def simulate_patient(seed: int = 0) -> ScoredPatient:
    """Simulate a patient of the size of BraTS.

    Args:
        seed: Seed of the noise.

    Returns:
        T1, a T1ce with an enhancing ball, and a noisy, blurred image of it as the synthetic T1ce.
    """
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    brain = (x / 0.58) ** 2 + (y / 0.73) ** 2 + (z / 0.9) ** 2 < 1
    radius = ((x - 0.2) ** 2 + y**2 + z**2) ** 0.5
    labels = np.where(radius < 0.12, 4, np.where(radius < 0.25, 2, 0)) * brain

    t1 = (400 + 60 * ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5) / 0.07) * brain
    truth = (t1 + 300 * (labels == 4)) * brain
    synthetic = (ndimage.gaussian_filter(truth, 1) + rng.normal(0, 10, SHAPE)) * brain
    arrays = [array.astype(np.float32) for array in (synthetic, truth, t1)]
    return ScoredPatient("simulated", *arrays, None, None, make_regions(brain, labels), (1.0, 1.0, 1.0))


def build_jobs(patient: ScoredPatient) -> dict[str, Job]:
    """Build the jobs to time.

    Args:
        patient: The patient.

    Returns:
        Title -> job; a job that returns a float has its value printed.
    """
    cropped = patient.crop_to_brain()
    image, truth, t1 = cropped.robust_zscores()
    brain = patient.regions.brain
    stretched_image = voxelwise.stretch_percentiles(patient.image, brain)
    stretched_truth = voxelwise.stretch_percentiles(patient.truth, brain)
    interior = ssim.interior_mask(SHAPE)
    tensors = [torch.from_numpy(array.astype(np.float32))[None, None] for array in (stretched_image, stretched_truth)]

    def score_texture() -> None:
        texture.slice_jumps(image, truth, cropped.regions.brain)
        texture.sharpness(image, truth, cropped.regions.brain)

    def monai_ssim() -> float:
        return float(SSIMMetric(3, data_range=1.0)(*tensors))

    def monai_ms_ssim() -> float:
        return float(MultiScaleSSIMMetric(3, data_range=1.0, weights=ssim.EXPONENTS)(*tensors))

    def torchmetrics_ssim() -> float:
        return float(torchmetrics.structural_similarity_index_measure(*tensors, data_range=1.0))

    def torchmetrics_ms_ssim() -> float:
        score = torchmetrics.multiscale_structural_similarity_index_measure
        return float(score(*tensors, data_range=1.0, betas=ssim.EXPONENTS))

    jobs: dict[str, Job] = {
        f"all metrics, protocol {name}": partial(patient_scores.score_patient, patient, name, False)
        for name in protocols.PROTOCOLS
    }
    return jobs | {
        "enhancement, lesion by lesion": partial(
            lesion_detection.score_lesions, image, truth, t1, cropped.regions, cropped.spacing
        ),
        "slices and sharpness": score_texture,
        "SSIM, dsdiff": partial(ssim.ssim, stretched_image, stretched_truth, interior, 1.0),
        "SSIM, MONAI": monai_ssim,
        "SSIM, torchmetrics": torchmetrics_ssim,
        "MS-SSIM, dsdiff": partial(ssim.ms_ssim, stretched_image, stretched_truth, None, 1.0),
        "MS-SSIM, MONAI": monai_ms_ssim,
        "MS-SSIM, torchmetrics": torchmetrics_ms_ssim,
    }


def time_jobs(jobs: dict[str, Job], rounds: int) -> None:
    """Time all jobs in turn, and print the fastest round of each.

    Args:
        jobs: Title -> job.
        rounds: Number of rounds.
    """
    fastest: dict[str, tuple[float, float]] = {}
    values = {}
    for _ in range(rounds):
        for name, job in jobs.items():
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            values[name] = job()
            duration = time.perf_counter() - wall_start, time.process_time() - cpu_start
            fastest[name] = min(fastest.get(name, (np.inf, 0)), duration)

    for name, (wall, cpu) in fastest.items():
        value = f"{values[name]:.5f}" if isinstance(values[name], float) else ""
        print(f"{name:34} {wall:8.2f} s {cpu:8.2f} CPU s   {value}", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = create_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="number of rounds")
    parser.add_argument("--cohort", type=int, default=5, help="number of patients for the peak memory")
    args = parser.parse_args()

    patient = simulate_patient()
    time_jobs(build_jobs(patient), args.rounds)
    for number in range(1, args.cohort + 1):
        patient_scores.score_patient(patient, "brain", False)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory after patient {number}: {peak_mb:.0f} MB (torch, torchmetrics and MONAI included)")


if __name__ == "__main__":
    main()
