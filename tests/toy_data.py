"""Small patients made of ellipsoids, the config of a tiny model, and a way to run a command in this process."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from dsdiff.cli.main import run

torch.set_num_threads(1)

SHAPE = (44, 52, 24)
LPS_AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 51], [0, 0, 1, 0], [0, 0, 0, 1]])

# Contrast -> intensity of white matter, and its change in gray matter and in the lesion.
INTENSITIES = {"t1": (600, -80, -150), "t2": (300, 150, 250), "flair": (400, 60, 220), "t1ce": (620, -80, 300)}


TINY_CONFIG = {
    "seed": 1,
    "data": {"context_slices": 3, "crop": [32, 48]},
    "backbone": {
        "target": "unet",
        "params": {"model_channels": 32, "channel_mult": [1, 1], "num_res_blocks": 1, "stem": 2},
    },
    "process": {"target": "bridge", "params": {"sigma": 0.5}},
    "training": {"steps": 4, "batch_size": 2, "warmup": 1, "validate_every": 2, "save_every": 2, "precision": "fp32"},
}


def make_patient(seed: int = 0) -> dict[str, np.ndarray]:
    """Images t1, t2, flair, t1ce and seg: an ellipsoid of two tissues with an enhancing ball. The background is 0."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    brain = (x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 0.9) ** 2 < 1
    gray = brain & (np.sin(9 * x + seed) * np.sin(8 * y) * np.cos(5 * z) > 0.1)
    lesion = brain & ((x - 0.3) ** 2 + (y + 0.2) ** 2 + z**2 < 0.05)
    images = {}
    for name, (white_matter, gray_change, lesion_change) in INTENSITIES.items():
        image = white_matter + gray_change * gray + lesion_change * lesion + rng.normal(0, 12, SHAPE)
        images[name] = np.where(brain, np.maximum(image, 1), 0).astype(np.float32)
    images["seg"] = (4 * lesion).astype(np.float32)
    return images


def write_case(folder: Path, name: str, seed: int = 0, affine: np.ndarray = LPS_AFFINE) -> Path:
    """Write a case folder with file names as in BraTS."""
    (folder / name).mkdir(parents=True)
    for contrast, array in make_patient(seed).items():
        image = nib.Nifti1Image(array.astype(np.int16), affine)
        image.set_qform(affine, 1)
        image.set_sform(affine, 2)
        nib.save(image, folder / name / f"{name}_{contrast}.nii.gz")
    return folder / name


def run_command(patch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run a dsdiff command in this process, and return its exit code."""
    patch.setattr(sys, "argv", ["dsdiff", *map(str, arguments)])
    patch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit_info:
        run()
    return exit_info.value.code


def list_tree(folder: Path) -> set[str]:
    """Relative paths of all files and folders in a folder, at any depth. Empty if the folder does not exist."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()


def randomize_zeros(network: torch.nn.Module, seed: int = 0) -> None:
    """Give small random values to every parameter that is zero at the start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
