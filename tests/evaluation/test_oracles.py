"""Agreement with torchmetrics and MONAI where they mean the same, on random volumes and on real ones."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import MAEMetric, MultiScaleSSIMMetric, PSNRMetric, RMSEMetric, SSIMMetric
from torchmetrics.functional import image as torchmetrics

from dsdiff.evaluation import ssim, voxelwise
from dsdiff.io import cases
from dsdiff.preprocessing import normalize

REAL = os.environ.get("DSDIFF_REAL_DATA")


def random_pair():
    rng = np.random.default_rng(5)
    truth = rng.random((104, 100, 99), np.float32)
    return np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1).astype(np.float32), truth


def real_pair():
    """T1 and T1ce of a real patient, the middle of the brain, each stretched to its own percentiles."""
    if not REAL:
        pytest.skip("DSDIFF_REAL_DATA is not set: it names a folder of real patients")
    volumes = cases.load(cases.discover(Path(REAL))[0], ("t1", "t1ce"))
    prepared = normalize.apply(volumes)
    middle = tuple(slice((a + b) // 2 - 52, (a + b) // 2 + 52) for a, b in (
        (e.min(), e.max()) for e in np.nonzero(prepared.brain)
    ))  # fmt: skip
    return tuple(
        voxelwise.stretched(prepared.images[name], prepared.brain)[middle].astype(np.float32) for name in ("t1", "t1ce")
    )


@pytest.fixture(scope="module", params=[random_pair, real_pair], ids=["random", "real"])
def pair(request):
    return request.param()


def tensors(pair):
    return tuple(torch.from_numpy(np.ascontiguousarray(array))[None, None] for array in pair)


def test_voxelwise(pair):
    image, truth = pair
    everywhere = np.ones(truth.shape, bool)
    found = voxelwise.psnr(image, truth, everywhere, 1.0)
    assert found == pytest.approx(float(PSNRMetric(1.0)(*tensors(pair))), abs=1e-4)
    assert found == pytest.approx(float(torchmetrics.peak_signal_noise_ratio(*tensors(pair), data_range=1.0)), abs=1e-4)
    assert voxelwise.nrmse(image, truth, everywhere, 1.0) == pytest.approx(
        float(RMSEMetric()(*tensors(pair))), abs=1e-4
    )
    assert voxelwise.mae(image, truth, everywhere, 1.0) == pytest.approx(float(MAEMetric()(*tensors(pair))), abs=1e-4)


def test_ssim(pair):
    """Theirs without a region: MONAI averages the windows that lie within the volume, torchmetrics all of them,
    mirroring the border without repeating its last voxel (we repeat it, as SciPy and scikit-image do)."""
    image, truth = pair
    inside = ssim.interior(truth.shape)
    found = ssim.ssim(image, truth, inside, 1.0)
    assert found == pytest.approx(float(SSIMMetric(3, data_range=1.0)(*tensors(pair))), abs=1e-4)
    _, full = torchmetrics.structural_similarity_index_measure(*tensors(pair), data_range=1.0, return_full_image=True)
    assert found == pytest.approx(float(full[0, 0].numpy()[inside].mean()), abs=1e-4)


def test_ms_ssim(pair):
    """MONAI's is ours. torchmetrics' averages the last scale's SSIM over the mirrored border too, where the others and
    MONAI leave it out: given its own last factor, the rest agrees."""
    image, truth = pair
    levels = ssim.pyramid(image, truth, 1.0)
    theirs = MultiScaleSSIMMetric(3, data_range=1.0, weights=ssim.EXPONENTS)(*tensors(pair))
    assert ssim.ms_ssim(image, truth, None, 1.0) == pytest.approx(float(theirs), abs=1e-4)
    coarse = list(pair)
    for _ in range(len(levels) - 1):
        coarse = [ssim.halved(array) for array in coarse]
    last = float(torchmetrics.structural_similarity_index_measure(*tensors(coarse), data_range=1.0))
    finer = [ssim.mean_over(level, ssim.interior(level.shape)) for level in levels[:-1]]
    expected = np.prod(np.array([*finer, last]) ** np.array(ssim.EXPONENTS))
    theirs = torchmetrics.multiscale_structural_similarity_index_measure(
        *tensors(pair), data_range=1.0, betas=ssim.EXPONENTS
    )
    assert float(theirs) == pytest.approx(expected, abs=1e-4)
