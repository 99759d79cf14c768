"""T1ce minus T1 of a phantom is positive exactly where its enhancement map is."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import InputError, OutputError
from dsdiff.phantom import anatomy, files, lesions, random_fields
from dsdiff.phantom.files import check_generation, phantom_exists, write_phantom
from dsdiff.phantom.simulate import AFFINE, CONTRASTS, GENERATION, Phantom, case_name, simulate_phantom

WINDOW = (176, 208, 64)
"""Size of a window with 64 slices of the whole brain: the same physics in less time."""

RING_SEED, HEALTHY_SEED = 39, 11
"""Seeds of a patient with a ring-enhancing tumour that has not bled and of a healthy one, on WINDOW."""


@pytest.fixture(scope="module")
def noiseless() -> Phantom:
    return simulate_phantom(RING_SEED, noise=0.0, shape=WINDOW)


@pytest.fixture(scope="module")
def noisy() -> Phantom:
    return simulate_phantom(RING_SEED, shape=WINDOW)


@pytest.fixture(scope="module")
def own_style() -> Phantom:
    return simulate_phantom(RING_SEED, target_style="own", shape=WINDOW)


@pytest.fixture(scope="module")
def healthy() -> Phantom:
    return simulate_phantom(HEALTHY_SEED, shape=WINDOW)


def difference(patient: Phantom) -> np.ndarray:
    return patient.volumes["t1ce"].array - patient.volumes["t1"].array


def test_t1ce_minus_t1_is_the_enhancement_exactly(noiseless: Phantom) -> None:
    assert (noiseless.enhancement.array > 0).sum() > 1000
    np.testing.assert_array_equal(difference(noiseless), noiseless.enhancement.array)


def test_difference_is_exact_after_writing_and_reading(noiseless: Phantom, tmp_path: Path) -> None:
    folder = write_phantom(noiseless, tmp_path)
    t1, t1ce, truth = (
        nib.load(folder / f"{noiseless.case}_{name}.nii.gz").get_fdata() for name in ("t1", "t1ce", "enh")
    )
    np.testing.assert_array_equal(t1ce - t1 > 0, truth > 0)
    np.testing.assert_array_equal((t1ce - t1)[truth == 0], 0)
    np.testing.assert_array_equal(truth, noiseless.enhancement.array)


def test_noisy_difference_has_the_enhancement_as_its_mean(noisy: Phantom) -> None:
    t1, truth, increase = noisy.volumes["t1"].array, noisy.enhancement.array, difference(noisy)
    brain, enhancing = t1 > 0, truth > 0
    median = float(np.median(t1[brain]))
    assert increase[enhancing].mean() == pytest.approx(truth[enhancing].mean(), abs=0.01 * median)
    assert increase[enhancing].mean() > 0.05 * median
    assert abs(increase[brain & ~enhancing].mean()) < 0.003 * median
    assert abs(np.median(increase[brain & ~enhancing])) < 0.003 * median


def test_enhancement_does_not_depend_on_noise(noisy: Phantom, noiseless: Phantom) -> None:
    np.testing.assert_array_equal(noisy.enhancement.array, noiseless.enhancement.array)


def test_enhancing_tumour_enhances_more_than_non_enhancing_tumour(noiseless: Phantom) -> None:
    seg, truth = noiseless.seg.array, noiseless.enhancement.array
    assert (truth[seg == 4] > 0).mean() > 0.9
    assert truth[seg == 4].mean() > 5 * truth[seg == 2].mean()


@pytest.mark.slow
def test_own_style_has_another_scan(own_style: Phantom, noisy: Phantom) -> None:
    scans = own_style.parameters["scans"]
    assert scans["t1ce"] != scans["t1"]
    assert noisy.parameters["scans"]["t1ce"] == noisy.parameters["scans"]["t1"]
    np.testing.assert_array_equal(own_style.seg.array, noisy.seg.array)
    np.testing.assert_array_equal(own_style.volumes["t1"].array > 0, own_style.volumes["t1ce"].array > 0)


@pytest.mark.parametrize("fixture_name", ["noisy", pytest.param("own_style", marks=pytest.mark.slow)])
def test_background_is_zero_and_brain_positive(fixture_name: str, request: pytest.FixtureRequest) -> None:
    patient = request.getfixturevalue(fixture_name)
    brain = patient.volumes["t1"].array > 0
    assert 0.15 < brain.mean() < 0.6
    assert tuple(patient.volumes) == CONTRASTS
    for volume in patient.volumes.values():
        assert volume.array.dtype == np.float32
        np.testing.assert_array_equal(volume.array > 0, brain)
        np.testing.assert_array_equal(volume.array[~brain], 0)
    assert not patient.seg.array[~brain].any()
    assert not patient.enhancement.array[~brain].any()


def test_labels_are_brats_labels(noisy: Phantom, healthy: Phantom) -> None:
    assert noisy.seg.array.dtype == np.uint8
    assert set(np.unique(noisy.seg.array)) == {0, 1, 2, 4}
    assert healthy.parameters["lesion"]["kind"] == "healthy"
    assert not healthy.seg.array.any()
    assert (healthy.enhancement.array > 0).any()  # vessels


def test_every_contrast_shows_the_lesion(noiseless: Phantom) -> None:
    seg = noiseless.seg.array
    for contrast, label, sign in (("t1", 1, -1), ("t2", 1, 1), ("t2", 2, 1), ("flair", 2, 1)):
        image = noiseless.volumes[contrast].array
        healthy_median = np.median(image[(image > 0) & (seg == 0)])
        assert sign * (np.median(image[seg == label]) / healthy_median - 1) > 0.05


def test_same_seed_gives_the_same_patient(noisy: Phantom) -> None:
    repeated = simulate_phantom(RING_SEED, shape=WINDOW)
    assert repeated.parameters == noisy.parameters
    for name in CONTRASTS:
        np.testing.assert_array_equal(repeated.volumes[name].array, noisy.volumes[name].array)


def test_another_seed_gives_another_patient(noisy: Phantom, healthy: Phantom) -> None:
    assert noisy.case != healthy.case
    assert noisy.parameters["head"] != healthy.parameters["head"]


def test_a_window_lies_in_the_middle_of_the_full_grid(noisy: Phantom) -> None:
    first_voxel_mm = noisy.volumes["t1"].affine @ [0, 0, 0, 1]
    np.testing.assert_array_equal(first_voxel_mm, AFFINE @ [(240 - 176) // 2, (240 - 208) // 2, (155 - 64) // 2, 1])
    np.testing.assert_array_equal(noisy.seg.affine, noisy.volumes["t1"].affine)


def test_parameters_are_json(noisy: Phantom) -> None:
    assert json.loads(json.dumps(noisy.parameters, allow_nan=False)) == json.loads(json.dumps(noisy.parameters))
    assert noisy.parameters["seed"] == RING_SEED


def test_write_creates_one_complete_folder(healthy: Phantom, tmp_path: Path) -> None:
    folder = write_phantom(healthy, tmp_path)
    assert folder == tmp_path / healthy.case
    names = {f"{healthy.case}_{name}.nii.gz" for name in (*CONTRASTS, "seg", "enh")} | {f"{healthy.case}_phantom.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert list(tmp_path.iterdir()) == [folder]
    image = nib.load(folder / f"{healthy.case}_t2.nii.gz")
    np.testing.assert_array_equal(image.affine, healthy.volumes["t2"].affine)
    np.testing.assert_array_equal(image.get_fdata(), healthy.volumes["t2"].array)
    assert json.loads((folder / f"{healthy.case}_phantom.json").read_text())["seed"] == HEALTHY_SEED


def test_write_that_fails_leaves_nothing(healthy: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.nifti, "write_nifti", full_disk)
    with pytest.raises(OutputError, match="no space"):
        write_phantom(healthy, tmp_path)
    assert not list(tmp_path.iterdir())


def test_write_does_not_overwrite(healthy: Phantom, tmp_path: Path) -> None:
    (tmp_path / healthy.case).mkdir()
    with pytest.raises(OutputError, match="exists already"):
        write_phantom(healthy, tmp_path)


def test_unknown_target_style_raises() -> None:
    with pytest.raises(InputError, match=r"'similar'.*same, own"):
        simulate_phantom(0, target_style="similar")


@pytest.mark.parametrize("shape", [(240, 240), (240, 240, 156), (20, 240, 155)])
def test_unusable_shape_raises(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="shape"):
        simulate_phantom(0, shape=shape)


def test_error_for_missing_maps_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anatomy.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'dsdiff-mri\[phantom\]'"):
        anatomy.find_template_folder()


def test_two_thirds_of_patients_have_enhancing_tumour() -> None:
    assert sum(lesions.KINDS.values()) == pytest.approx(1)
    assert sum(lesions.KINDS[kind] for kind in ("ring", "solid", "patchy", "metastases")) == pytest.approx(0.65)


def test_smooth_fields_have_unit_variance_and_no_mean() -> None:
    field = random_fields.sample_noise_volume(np.random.default_rng(0), (90, 90, 90), 4.0)
    assert field.mean() == pytest.approx(0, abs=0.05)
    assert field.std() == pytest.approx(1, abs=0.05)


def test_phantom_exists_compares_settings_and_generation(tmp_path: Path) -> None:
    assert not phantom_exists(tmp_path, 7, "same", 1.0)
    case_folder = tmp_path / case_name(7)
    case_folder.mkdir()
    with pytest.raises(OutputError, match="is not a phantom"):
        phantom_exists(tmp_path, 7, "same", 1.0)

    parameters = {"seed": 7, "target_style": "own", "noise": 1.0}
    (case_folder / f"{case_folder.name}_phantom.json").write_text(json.dumps(parameters))
    with pytest.raises(OutputError, match="'generation': 1"):  # of a dsdiff that gave this seed another patient
        phantom_exists(tmp_path, 7, "own", 1.0)
    with pytest.raises(OutputError, match="phantom generation 1, now"):  # for any seed
        check_generation(tmp_path)

    parameters["generation"] = GENERATION
    (case_folder / f"{case_folder.name}_phantom.json").write_text(json.dumps(parameters))
    assert phantom_exists(tmp_path, 7, "own", 1.0)
    check_generation(tmp_path)
    with pytest.raises(OutputError, match="was simulated with"):
        phantom_exists(tmp_path, 7, "same", 1.0)
