import numpy as np
import pytest
import torch
from matplotlib.image import imread

from dsdiff.data.batch_sampling import Batch
from dsdiff.preprocessing.planes import PLANES, slices_to_plane
from dsdiff.reporting.sample_grid import HEADER_PIXELS, save_sample_grid


def test_slices_are_named_and_black_outside_the_brain(tmp_path):
    region = torch.zeros(2, 1, 32, 40, dtype=torch.int8)
    region[..., 8:24, 10:30] = 1
    gray = torch.zeros(2, 1, 32, 40)
    unnamed = Batch(gray[:, None].expand(2, 3, 1, 32, 40), gray, region, torch.ones(2, 3, dtype=torch.bool))
    named = Batch(**vars(unnamed) | {"case_names": ("A", "B")})
    images = []
    for number, batch in enumerate((unnamed, named)):
        path = tmp_path / "samples" / f"{number}.png"
        save_sample_grid(batch, gray + 6, ("t1", "t2", "flair"), path)
        images.append(imread(path)[..., 0])
    assert images[0].shape == (2 * 40 + HEADER_PIXELS, 5 * 32)
    assert images[0][:HEADER_PIXELS].max() > 0.5  # names of the columns
    tiles = images[0][HEADER_PIXELS:].reshape(2, 40, 5, 32)
    assert (tiles[:, :10] == 0).all()
    assert np.allclose(tiles[:, 15:25, :, 10:20].mean((0, 1, 3)), [0.4, 0.4, 0.4, 1, 0.4], atol=0.02)
    assert (images[1] != images[0])[HEADER_PIXELS:].any()  # names of the patients


@pytest.mark.parametrize("plane", PLANES)
def test_anterior_or_superior_is_on_top(tmp_path, plane):
    brain = np.zeros((24, 24, 24), np.float32)  # z x y
    brain[4:20, 4:20, 4:20] = 1
    ramp = brain * (np.arange(24) if plane == "axial" else np.arange(24)[:, None, None])  # towards anterior, superior
    volumes = (ramp / 4, brain)
    target, region = (torch.tensor(slices_to_plane(volume, plane)[12][None, None].copy()) for volume in volumes)
    sources = torch.zeros(1, 1, 1, 24, 24)
    batch = Batch(sources, target, region.to(torch.int8), torch.ones(1, 1, dtype=torch.bool))
    save_sample_grid(batch, target, ("t1",), tmp_path / "one.png", plane)
    acquired = imread(tmp_path / "one.png")[HEADER_PIXELS:, -24:, 0][5:20, 12]
    assert acquired[0] > acquired[7] > acquired[-2]
