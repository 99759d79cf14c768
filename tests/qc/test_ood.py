"""A case unlike those that were learnt from is told from one like them, and what is odd about it is named."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from dsdiff.errors import ModelError
from dsdiff.preprocessing import normalize
from dsdiff.preprocessing.normalize import Prepared
from dsdiff.qc import misalignment, ood
from dsdiff.qc.ood import Familiar
from dsdiff.volume import Volume

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
CONTRASTS = {"t1": (200, 500, 700), "t2": (900, 500, 350), "flair": (150, 600, 480)}  # fluid, grey, white matter
Volumes = dict[str, Volume]


def head(seed: int) -> Volumes:
    """An egg with a fluid core, white matter, a folded rim of grey matter, noise, and sizes of its own."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (60, 72, 56)), indexing="ij")
    across, along, up = rng.normal((0.78, 0.82, 0.8), 0.02)
    r = np.sqrt((x / (across - 0.15 * y)) ** 2 + (y / along) ** 2 + (z / (up + 0.2 * z)) ** 2)
    folded = r + 0.05 * np.sin(14 * x + seed) * np.sin(13 * y) + 0.05 * np.sin(15 * z + seed)
    tissue = np.select([(r < 0.3) & (y > -0.1), folded < 0.75], [0, 2], 1)
    return {
        name: Volume(_scanned(np.take(values, tissue), r < 1, rng).astype(np.float32), AFFINE)
        for name, values in CONTRASTS.items()
    }


def _scanned(image: np.ndarray, brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    seen = ndimage.gaussian_filter(image.astype(float), 0.6) + rng.normal(0, rng.uniform(12, 18), image.shape)
    return np.where(brain, np.maximum(seen, 1), 0)


@pytest.fixture(scope="module")
def cohort() -> list[Volumes]:
    return [head(seed) for seed in range(14)]


@pytest.fixture(scope="module")
def known(cohort: list[Volumes]) -> Familiar:
    learnt = ood.learn({f"P{i}": ood.measure(normalize.apply(volumes)) for i, volumes in enumerate(cohort[1:])})
    assert learnt is not None
    return learnt


def changed(volumes: Volumes, change, only: tuple[str, ...] = CONTRASTS) -> Prepared:
    """The case with some arrays changed."""
    return normalize.apply(
        {
            name: Volume(change(v.array).astype(np.float32), v.affine) if name in only else v
            for name, v in volumes.items()
        }
    )


def said(known: Familiar, prepared: Prepared) -> str:
    return " | ".join(known.doubts(ood.measure(prepared)))


def test_training_patients_are_familiar(cohort: list[Volumes], known: Familiar) -> None:
    assert not any(said(known, normalize.apply(volumes)) for volumes in cohort[1:])


@pytest.mark.parametrize(("a", "b"), [("t1", "t2"), ("t2", "flair"), ("t1", "flair")])
def test_exchanged_contrasts_are_named(cohort: list[Volumes], known: Familiar, a: str, b: str) -> None:
    volumes = cohort[0]
    exchanged = normalize.apply(volumes | {a: volumes[b], b: volumes[a]})
    assert f"{' and '.join(sorted((a, b)))} seem exchanged" in said(known, exchanged)


def test_another_orientation_is_another_shape(cohort: list[Volumes], known: Familiar) -> None:
    assert "in shape" in said(known, changed(cohort[0], lambda a: a[:, ::-1]))
    assert "in shape" in said(known, changed(cohort[0], lambda a: a.transpose(1, 0, 2)))


def test_noise_and_blur_are_another_detail(cohort: list[Volumes], known: Familiar) -> None:
    rng = np.random.default_rng(0)
    noisy = changed(cohort[0], lambda a: np.where(a > 0, np.maximum(a + rng.normal(0, a.std(), a.shape), 1), 0))
    smooth = changed(cohort[0], lambda a: np.where(a > 0, np.maximum(ndimage.gaussian_filter(a, 2), 1), 0))
    assert "in detail" in said(known, noisy)
    assert "in detail" in said(known, smooth)


def test_an_absent_contrast_is_not_odd(cohort: list[Volumes], known: Familiar) -> None:
    two = normalize.apply({name: cohort[1][name] for name in ("t1", "t2")})
    assert not said(known, two)


def test_what_was_learnt_is_read_back_alike(cohort: list[Volumes], known: Familiar) -> None:
    found = ood.measure(normalize.apply(cohort[0]))
    assert ood.parse(known.dump(), "here").scores(found) == known.scores(found)
    for text in ("", "{}", '{"shape": 1}', "[]"):
        with pytest.raises(ModelError, match="here does not say"):
            ood.parse(text, "here")


def test_few_patients_teach_nothing(cohort: list[Volumes]) -> None:
    one = ood.measure(normalize.apply(cohort[0]))
    assert ood.learn({f"P{i}": one for i in range(ood.FEWEST - 1)}) is None
    assert ood.learn({f"BraTS-GLI-00001-00{i}": one for i in range(ood.FEWEST)}) is None  # one patient


def test_another_visit_does_not_tell_how_far_apart_patients_are(cohort):
    found = [ood.measure(normalize.apply(one)) for one in cohort]
    measured, visits = ({f"BraTS-GLI-{i:05}-{visit}": one for i, one in enumerate(found)} for visit in ("000", "001"))
    alone, twice = ood.learn(measured), ood.learn(measured | visits)
    for name, group in alone.groups.items():
        assert twice.groups[name].limit == pytest.approx(group.limit, rel=1e-6)


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, 0, 0), (0, -3, 0), (-2, 3, 0)])
def test_a_shift_is_found_to_the_grid(cohort: list[Volumes], shift: tuple[int, int, int]) -> None:
    prepared = normalize.apply(cohort[0])
    moved = np.roll(prepared.images["t2"], shift, (0, 1, 2)) * prepared.brain
    found = misalignment.displacement(replace(prepared, images=prepared.images | {"t2": moved}), "t2", "t1")
    assert found == pytest.approx([3.0 * n for n in shift])


def test_a_displaced_contrast_is_named_with_its_way(cohort: list[Volumes]) -> None:
    assert misalignment.doubts(normalize.apply(cohort[0]), "t1") == ()
    moved = changed(cohort[0], lambda a: np.roll(a, 2, 0), only=("flair",))
    (doubt,) = misalignment.doubts(moved, "t1")
    assert doubt.startswith("flair seems to lie 6 mm") and doubt.endswith("of t1: are they registered?")
