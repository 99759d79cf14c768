"""Simulated heads that differ from one another like patients do."""

from collections.abc import Callable, Container

import numpy as np
from scipy import ndimage

from dsdiff.preprocessing.normalize import PreprocessedCase, preprocess
from dsdiff.volume import Volume

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
CONTRASTS = {"t1": (200, 500, 700), "t2": (900, 500, 350), "flair": (150, 600, 480)}  # fluid, gray, white matter
Volumes = dict[str, Volume]


def simulate_head(seed: int) -> Volumes:
    """An egg with a fluid core, white matter, a folded rim of gray matter, noise, and a size of its own."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (60, 72, 56)), indexing="ij")
    width, length, height = rng.normal((0.78, 0.82, 0.8), 0.02)
    radius = np.sqrt((x / (width - 0.15 * y)) ** 2 + (y / length) ** 2 + (z / (height + 0.2 * z)) ** 2)
    folded = radius + 0.05 * np.sin(14 * x + seed) * np.sin(13 * y) + 0.05 * np.sin(15 * z + seed)
    tissue = np.select([(radius < 0.3) & (y > -0.1), folded < 0.75], [0, 2], 1)
    images = {name: _scan(np.take(values, tissue), radius < 1, rng) for name, values in CONTRASTS.items()}
    return {name: Volume(image.astype(np.float32), AFFINE) for name, image in images.items()}


def _scan(image: np.ndarray, brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    blurred = ndimage.gaussian_filter(image.astype(float), 0.6)
    noisy = blurred + rng.normal(0, rng.uniform(12, 18), image.shape)
    return np.where(brain, np.maximum(noisy, 1), 0)


def change_arrays(
    volumes: Volumes, change: Callable[[np.ndarray], np.ndarray], contrasts: Container[str] = tuple(CONTRASTS)
) -> PreprocessedCase:
    """The preprocessed case with the arrays of some contrasts changed."""
    changed = dict(volumes)
    for name, volume in volumes.items():
        if name in contrasts:
            changed[name] = Volume(change(volume.array).astype(np.float32), volume.affine)
    return preprocess(changed).case
