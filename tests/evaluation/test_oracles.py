"""Agreement with torchmetrics and MONAI on random and on real volumes, for scores with the same definition."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import MAEMetric, MultiScaleSSIMMetric, PSNRMetric, RMSEMetric, SSIMMetric
from torchmetrics.functional import image as torchmetrics

from dsdiff.evaluation import ssim, voxelwise
from dsdiff.io.cases import discover_cases, load_volumes
from dsdiff.preprocessing import normalize

REAL = os.environ.get("DSDIFF_REAL_DATA")


def random_pair():
    rng = np.random.default_rng(5)
    truth = rng.random((104, 100, 99), np.float32)
    return np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1).astype(np.float32), truth


def real_pair():
    """T1 and T1ce of a real patient, the middle of the brain, each stretched to its own percentiles."""
    if not REAL:
        pytest.skip("DSDIFF_REAL_DATA, a folder of real patients, is not set")
    volumes = load_volumes(discover_cases(Path(REAL))[0], ("t1", "t1ce"))
    prepared = normalize.preprocess(volumes).case
    box = []
    for indices in np.nonzero(prepared.brain):
        center = (indices.min() + indices.max()) // 2
        box.append(slice(center - 52, center + 52))
    stretched = (voxelwise.stretch_percentiles(prepared.images[name], prepared.brain) for name in ("t1", "t1ce"))
    return tuple(image[tuple(box)].astype(np.float32) for image in stretched)


@pytest.fixture(scope="module", params=[random_pair, real_pair], ids=["random", "real"])
def pair(request):
    return request.param()


def tensors(pair):
    return tuple(torch.from_numpy(np.ascontiguousarray(array))[None, None] for array in pair)


def test_voxelwise(pair):
    image, truth = pair
    region = np.ones(truth.shape, bool)
    psnr = voxelwise.psnr(image, truth, region, 1.0)
    assert psnr == pytest.approx(float(PSNRMetric(1.0)(*tensors(pair))), abs=1e-4)
    assert psnr == pytest.approx(float(torchmetrics.peak_signal_noise_ratio(*tensors(pair), data_range=1.0)), abs=1e-4)
    assert voxelwise.nrmse(image, truth, region, 1.0) == pytest.approx(float(RMSEMetric()(*tensors(pair))), abs=1e-4)
    assert voxelwise.mae(image, truth, region, 1.0) == pytest.approx(float(MAEMetric()(*tensors(pair))), abs=1e-4)


def test_ssim(pair):
    """Without a region MONAI averages the windows within the volume. torchmetrics averages all windows and mirrors the
    border without repeating its last voxel; we repeat it, as SciPy and scikit-image do."""
    image, truth = pair
    interior = ssim.interior_mask(truth.shape)
    score = ssim.ssim(image, truth, interior, 1.0)
    assert score == pytest.approx(float(SSIMMetric(3, data_range=1.0)(*tensors(pair))), abs=1e-4)
    _, ssim_map = torchmetrics.structural_similarity_index_measure(
        *tensors(pair), data_range=1.0, return_full_image=True
    )
    assert score == pytest.approx(float(ssim_map[0, 0].numpy()[interior].mean()), abs=1e-4)


def test_ms_ssim(pair):
    """MONAI agrees. torchmetrics averages the SSIM of the last scale over the mirrored border too, which MONAI and we
    leave out; with its own last factor the product agrees."""
    image, truth = pair
    levels = ssim.ms_ssim_maps(image, truth, 1.0)
    monai_score = MultiScaleSSIMMetric(3, data_range=1.0, weights=ssim.EXPONENTS)(*tensors(pair))
    assert ssim.ms_ssim(image, truth, None, 1.0) == pytest.approx(float(monai_score), abs=1e-4)
    coarse = list(pair)
    for _ in range(len(levels) - 1):
        coarse = [ssim.halve(array) for array in coarse]
    last_factor = float(torchmetrics.structural_similarity_index_measure(*tensors(coarse), data_range=1.0))
    factors = [ssim.mean_over(level, ssim.interior_mask(level.shape)) for level in levels[:-1]]
    expected = np.prod(np.array([*factors, last_factor]) ** np.array(ssim.EXPONENTS))
    torchmetrics_score = torchmetrics.multiscale_structural_similarity_index_measure(
        *tensors(pair), data_range=1.0, betas=ssim.EXPONENTS
    )
    assert float(torchmetrics_score) == pytest.approx(expected, abs=1e-4)
