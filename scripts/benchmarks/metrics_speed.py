"""Time the scores of one 240 x 240 x 155 volume, beside torchmetrics and MONAI: python benchmarks/metrics_speed.py

Needs pip install 'dsdiff-mri[dev]'. The volume is a simulated brain (an ellipsoid of smooth noise with a tumour), the
rounds are interleaved, and the fastest of each is printed with its value and the CPU time of the fastest round; then
the peak memory of this process after all patients of a cohort of the same volume, one after the other.
"""

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.metrics import MultiScaleSSIMMetric, SSIMMetric
from scipy import ndimage
from torchmetrics.functional import image as torchmetrics

from dsdiff.evaluation import enhancement, patient_scores, protocols, ssim, texture, voxelwise
from dsdiff.evaluation.patient_scores import Patient
from dsdiff.evaluation.regions import regions

SHAPE = (240, 240, 155)


def simulated(seed: int = 0) -> Patient:
    """A patient of BraTS' size: T1, truth with an enhancing ball, and a noisy, blurred image of the truth."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    brain = (x / 0.58) ** 2 + (y / 0.73) ** 2 + (z / 0.9) ** 2 < 1
    ball = ((x - 0.2) ** 2 + y**2 + z**2) ** 0.5
    labels = np.where(ball < 0.12, 4, np.where(ball < 0.25, 2, 0)) * brain
    t1 = (400 + 60 * ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5) / 0.07) * brain
    truth = (t1 + 300 * (labels == 4)) * brain
    made = (ndimage.gaussian_filter(truth, 1) + rng.normal(0, 10, SHAPE)) * brain
    arrays = [array.astype(np.float32) for array in (made, truth, t1)]
    return Patient("simulated", *arrays, None, None, regions(brain, labels), (1.0, 1.0, 1.0))


def timed(work: dict[str, Callable[[], object]], rounds: int) -> None:
    """The fastest round of every piece of work: seconds, CPU seconds, and its value where it is a number."""
    best: dict[str, tuple[float, float]] = {}
    values = {}
    for _ in range(rounds):
        for name, run in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            values[name] = run()
            best[name] = min(best.get(name, (np.inf, 0)), (time.perf_counter() - wall, time.process_time() - cpu))
    for name, (wall, cpu) in best.items():
        value = f"{values[name]:.5f}" if isinstance(values[name], float) else ""
        print(f"{name:34} {wall:8.2f} s {cpu:8.2f} CPU s   {value}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cohort", type=int, default=5, help="patients after which memory is measured")
    args = parser.parse_args()
    one = simulated()
    small = one.boxed()
    image, truth, t1 = small.robust()
    brain = one.regions.brain
    pair = protocols.Pair(voxelwise.stretched(one.image, brain), voxelwise.stretched(one.truth, brain), 1.0)
    tensors = [torch.from_numpy(array.astype(np.float32))[None, None] for array in (pair.image, pair.truth)]
    inside = ssim.interior(SHAPE)
    timed(
        {
            f"all metrics, protocol {name}": lambda name=name: patient_scores.score(one, name, False)
            for name in protocols.PROTOCOLS
        }
        | {
            "enhancement, lesion by lesion": lambda: enhancement.score(image, truth, t1, small.regions, small.spacing),
            "slices and sharpness": lambda: (
                texture.slice_jumps(image, truth, small.regions.brain),
                texture.sharpness(image, truth, small.regions.brain),
            ),
            "SSIM, ours": lambda: ssim.ssim(pair.image, pair.truth, inside, 1.0),
            "SSIM, MONAI": lambda: float(SSIMMetric(3, data_range=1.0)(*tensors)),
            "SSIM, torchmetrics": lambda: float(
                torchmetrics.structural_similarity_index_measure(*tensors, data_range=1.0)
            ),
            "MS-SSIM, ours": lambda: ssim.ms_ssim(pair.image, pair.truth, None, 1.0),
            "MS-SSIM, MONAI": lambda: float(MultiScaleSSIMMetric(3, data_range=1.0, weights=ssim.EXPONENTS)(*tensors)),
            "MS-SSIM, torchmetrics": lambda: float(
                torchmetrics.multiscale_structural_similarity_index_measure(
                    *tensors, data_range=1.0, betas=ssim.EXPONENTS
                )
            ),
        },
        args.rounds,
    )
    for k in range(args.cohort):
        patient_scores.score(one, "brain", False)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory after patient {k + 1}: {peak:.0f} MB (with torch and the peers loaded)")


if __name__ == "__main__":
    main()
