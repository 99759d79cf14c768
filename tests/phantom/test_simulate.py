"""The phantom keeps its promise: T1ce minus T1 is positive where and only where its enhancement map says so."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dsdiff.errors import InputError, OutputError
from dsdiff.phantom import anatomy, files, lesions
from dsdiff.phantom import simulate as phantom
from dsdiff.phantom.files import same_generation, stands, write
from dsdiff.phantom.simulate import CONTRASTS, Phantom, simulate

SLAB = (176, 208, 64)
"""A window that holds the whole brain in the plane and 64 slices of it: the same physics in less time."""

RING, HEALTHY = 39, 11
"""Seeds of a patient with a ring-enhancing tumour that has not bled and of a healthy one, on SLAB."""


@pytest.fixture(scope="module")
def noiseless() -> Phantom:
    return simulate(RING, noise=0.0, shape=SLAB)


@pytest.fixture(scope="module")
def noisy() -> Phantom:
    return simulate(RING, shape=SLAB)


@pytest.fixture(scope="module")
def own() -> Phantom:
    return simulate(RING, target_style="own", shape=SLAB)


@pytest.fixture(scope="module")
def healthy() -> Phantom:
    return simulate(HEALTHY, shape=SLAB)


def difference(patient: Phantom) -> np.ndarray:
    return patient.volumes["t1ce"].array - patient.volumes["t1"].array


def test_t1ce_minus_t1_is_the_enhancement_exactly(noiseless: Phantom) -> None:
    assert (noiseless.enhancement.array > 0).sum() > 1000
    np.testing.assert_array_equal(difference(noiseless), noiseless.enhancement.array)


def test_the_promise_holds_after_writing_and_reading(noiseless: Phantom, tmp_path: Path) -> None:
    folder = write(noiseless, tmp_path)
    t1, t1ce, truth = (
        nib.load(folder / f"{noiseless.case}_{name}.nii.gz").get_fdata() for name in ("t1", "t1ce", "enh")
    )
    np.testing.assert_array_equal(t1ce - t1 > 0, truth > 0)
    np.testing.assert_array_equal((t1ce - t1)[truth == 0], 0)
    np.testing.assert_array_equal(truth, noiseless.enhancement.array)


def test_with_noise_the_difference_is_positive_on_average_there_and_zero_elsewhere(noisy: Phantom) -> None:
    brain, truth = noisy.volumes["t1"].array > 0, noisy.enhancement.array
    found, level = difference(noisy), float(np.median(noisy.volumes["t1"].array[brain]))
    assert found[truth > 0].mean() == pytest.approx(truth[truth > 0].mean(), abs=0.01 * level)
    assert found[truth > 0].mean() > 0.05 * level
    assert abs(found[brain & (truth == 0)].mean()) < 0.003 * level
    assert abs(np.median(found[brain & (truth == 0)])) < 0.003 * level


def test_enhancement_does_not_depend_on_noise(noisy: Phantom, noiseless: Phantom) -> None:
    np.testing.assert_array_equal(noisy.enhancement.array, noiseless.enhancement.array)


def test_enhancing_tumour_enhances_more_than_the_rest_of_the_tumour(noiseless: Phantom) -> None:
    seg, truth = noiseless.seg.array, noiseless.enhancement.array
    assert (truth[seg == 4] > 0).mean() > 0.9
    assert truth[seg == 4].mean() > 5 * truth[seg == 2].mean()


def test_own_style_differs_in_more_than_the_agent(own: Phantom, noisy: Phantom) -> None:
    scans = own.parameters["scans"]
    assert scans["t1ce"] != scans["t1"]
    assert noisy.parameters["scans"]["t1ce"] == noisy.parameters["scans"]["t1"]
    np.testing.assert_array_equal(own.seg.array, noisy.seg.array)
    np.testing.assert_array_equal(own.volumes["t1"].array > 0, own.volumes["t1ce"].array > 0)


def test_background_is_zero_and_brain_positive(noisy: Phantom, own: Phantom) -> None:
    for patient in (noisy, own):
        brain = patient.volumes["t1"].array > 0
        assert 0.15 < brain.mean() < 0.6
        assert tuple(patient.volumes) == CONTRASTS
        for volume in patient.volumes.values():
            assert volume.array.dtype == np.float32
            np.testing.assert_array_equal(volume.array > 0, brain)
            np.testing.assert_array_equal(volume.array[~brain], 0)
        assert not patient.seg.array[~brain].any()
        assert not patient.enhancement.array[~brain].any()


def test_labels_are_those_of_brats(noisy: Phantom, healthy: Phantom) -> None:
    assert noisy.seg.array.dtype == np.uint8
    assert set(np.unique(noisy.seg.array)) == {0, 1, 2, 4}
    assert healthy.parameters["lesion"]["kind"] == "healthy"
    assert not healthy.seg.array.any()
    assert (healthy.enhancement.array > 0).any()  # vessels


def test_every_image_shows_its_lesion(noiseless: Phantom) -> None:
    seg = noiseless.seg.array
    for contrast, label, sign in (("t1", 1, -1), ("t2", 1, 1), ("t2", 2, 1), ("flair", 2, 1)):
        image = noiseless.volumes[contrast].array
        elsewhere = np.median(image[(image > 0) & (seg == 0)])
        assert sign * (np.median(image[seg == label]) / elsewhere - 1) > 0.05


def test_same_seed_same_patient(noisy: Phantom) -> None:
    again = simulate(RING, shape=SLAB)
    assert again.parameters == noisy.parameters
    for name in CONTRASTS:
        np.testing.assert_array_equal(again.volumes[name].array, noisy.volumes[name].array)


def test_another_seed_another_patient(noisy: Phantom, healthy: Phantom) -> None:
    assert noisy.case != healthy.case
    assert noisy.parameters["head"] != healthy.parameters["head"]


def test_a_window_lies_in_the_middle_of_the_full_grid(noisy: Phantom) -> None:
    first = noisy.volumes["t1"].affine @ [0, 0, 0, 1]
    np.testing.assert_array_equal(first, phantom.AFFINE @ [(240 - 176) // 2, (240 - 208) // 2, (155 - 64) // 2, 1])
    np.testing.assert_array_equal(noisy.seg.affine, noisy.volumes["t1"].affine)


def test_parameters_are_json(noisy: Phantom) -> None:
    assert json.loads(json.dumps(noisy.parameters, allow_nan=False)) == json.loads(json.dumps(noisy.parameters))
    assert noisy.parameters["seed"] == RING


def test_write_makes_one_complete_folder(healthy: Phantom, tmp_path: Path) -> None:
    folder = write(healthy, tmp_path)
    assert folder == tmp_path / healthy.case
    names = {f"{healthy.case}_{name}.nii.gz" for name in (*CONTRASTS, "seg", "enh")} | {f"{healthy.case}_phantom.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert list(tmp_path.iterdir()) == [folder]
    image = nib.load(folder / f"{healthy.case}_t2.nii.gz")
    np.testing.assert_array_equal(image.affine, healthy.volumes["t2"].affine)
    np.testing.assert_array_equal(image.get_fdata(), healthy.volumes["t2"].array)
    assert json.loads((folder / f"{healthy.case}_phantom.json").read_text())["seed"] == HEALTHY


def test_write_that_fails_leaves_nothing(healthy: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.nifti, "write", full_disk)
    with pytest.raises(OutputError, match="no space"):
        write(healthy, tmp_path)
    assert not list(tmp_path.iterdir())


def test_write_does_not_overwrite(healthy: Phantom, tmp_path: Path) -> None:
    (tmp_path / healthy.case).mkdir()
    with pytest.raises(OutputError, match="there already"):
        write(healthy, tmp_path)


def test_unknown_target_style_is_refused() -> None:
    with pytest.raises(InputError, match=r"'similar'.*same, own"):
        simulate(0, target_style="similar")


@pytest.mark.parametrize("shape", [(240, 240), (240, 240, 156), (20, 240, 155)])
def test_unusable_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="shape"):
        simulate(0, shape=shape)


def test_missing_maps_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anatomy.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'dsdiff-mri\[phantom\]'"):
        anatomy.template_folder()


def test_two_thirds_of_patients_have_enhancing_tumour() -> None:
    assert sum(lesions.KINDS.values()) == pytest.approx(1)
    assert sum(lesions.KINDS[kind] for kind in ("ring", "solid", "patchy", "metastases")) == pytest.approx(0.65)


def test_smooth_fields_have_unit_variance_and_no_mean() -> None:
    field = anatomy.noise(np.random.default_rng(0), (90, 90, 90), 4.0)
    assert field.mean() == pytest.approx(0, abs=0.05)
    assert field.std() == pytest.approx(1, abs=0.05)


def test_what_stands_by_a_phantoms_name_is_that_phantom_or_refused(tmp_path: Path) -> None:
    assert not stands(tmp_path, 7, "same", 1.0)
    target = tmp_path / phantom.case_name(7)
    target.mkdir()
    with pytest.raises(OutputError, match="is no phantom"):
        stands(tmp_path, 7, "same", 1.0)
    told = {"seed": 7, "target_style": "own", "noise": 1.0}
    (target / f"{target.name}_phantom.json").write_text(json.dumps(told))
    with pytest.raises(OutputError, match="'generation': 1"):  # of a dsdiff that gave this seed another patient
        stands(tmp_path, 7, "own", 1.0)
    with pytest.raises(OutputError, match="of generation 1"):  # for any seed
        same_generation(tmp_path)
    told["generation"] = phantom.GENERATION
    (target / f"{target.name}_phantom.json").write_text(json.dumps(told))
    assert stands(tmp_path, 7, "own", 1.0)
    same_generation(tmp_path)
    with pytest.raises(OutputError, match="was simulated with"):
        stands(tmp_path, 7, "same", 1.0)
