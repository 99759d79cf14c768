from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import dsdiff
from dsdiff.errors import CaseError, ConfigError, GeometryError, InputError, ModelError
from dsdiff.inference.model import Model, load_model
from dsdiff.inference.options import SamplingPlan, SynthesisOptions, plan_sampling
from dsdiff.inference.pipeline import Pipeline
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, make_patient

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder, CPU)


@pytest.fixture
def damaged_model(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model whose config a test can change."""
    for name in ("model.safetensors", "config.yaml"):
        (tmp_path / name).write_bytes((model_folder / name).read_bytes())
    return tmp_path


def make_arrays() -> dict[str, np.ndarray]:
    return {name: array for name, array in make_patient().items() if name in ("t1", "t2", "flair")}


def make_volumes() -> dict[str, Volume]:
    return {name: Volume(array, LPS_AFFINE) for name, array in make_arrays().items()}


def canonical_array(volume: Volume) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine)).dataobj)


def test_t1ce_is_on_the_grid_of_t1_and_zero_outside_the_brain(model: Model) -> None:
    t1 = make_arrays()["t1"]
    result = dsdiff.synthesize(make_arrays(), LPS_AFFINE, model=model)
    assert result.t1ce.array.dtype == np.float32
    assert np.array_equal(result.t1ce.affine, LPS_AFFINE)
    assert not result.t1ce.array[t1 == 0].any()

    intensities = result.t1ce.array[t1 > 0]
    assert not np.allclose(intensities, t1[t1 > 0])  # the weights are awake
    assert 0.5 < np.median(intensities) / np.median(t1[t1 > 0]) < 2  # the intensity scale of T1
    assert result.std is None
    assert result.plan == SamplingPlan(1)


def test_same_seed_gives_the_same_bits_and_another_seed_other_samples(model: Model) -> None:
    first, repeated, second = (
        Pipeline(model, SynthesisOptions(samples=2, seed=seed)).synthesize_volumes(make_volumes()) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.t1ce.array, repeated.t1ce.array)
    assert np.array_equal(first.std.array, repeated.std.array)
    assert not np.array_equal(first.t1ce.array, second.t1ce.array)
    assert first.plan.steps > 1


def test_std_over_samples_is_positive_in_the_brain_and_zero_outside(model: Model) -> None:
    result = Pipeline(model, SynthesisOptions(samples=2, seed=1)).synthesize_volumes(make_volumes())
    std = result.std.array
    assert (std[result.t1ce.array != 0] > 0).mean() > 0.9  # bf16 may round two samples to one value
    assert not std[make_arrays()["t1"] == 0].any()


@pytest.mark.parametrize("codes", ["RAS", "SPL", "AIR"])
def test_reoriented_case_gives_the_reoriented_result(model: Model, codes: str) -> None:
    reoriented = {}
    for name, volume in make_volumes().items():
        image = nib.as_closest_canonical(nib.Nifti1Image(volume.array, LPS_AFFINE))
        image = image.as_reoriented(nib.orientations.axcodes2ornt(codes))
        reoriented[name] = Volume(np.asarray(image.dataobj), image.affine)

    result = Pipeline(model).synthesize_volumes(reoriented)
    assert np.array_equal(result.t1ce.affine, reoriented["t1"].affine)
    reference = Pipeline(model).synthesize_volumes(make_volumes())
    assert np.array_equal(canonical_array(result.t1ce), canonical_array(reference.t1ce))


def test_result_does_not_depend_on_intensity_units(model: Model) -> None:
    scaled = {name: Volume((3 if name == "t1" else 0.1) * v.array, LPS_AFFINE) for name, v in make_volumes().items()}
    scaled_t1ce = Pipeline(model).synthesize_volumes(scaled).t1ce.array
    reference = Pipeline(model).synthesize_volumes(make_volumes()).t1ce.array
    assert np.abs(scaled_t1ce / 3 - reference).max() < 0.05 * make_arrays()["t1"].std()  # bf16 rounds differently


def test_progress_increases_to_one(model: Model) -> None:
    fractions: list[float] = []
    Pipeline(model).synthesize_volumes(make_volumes(), progress=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_paths_and_arrays_give_the_same_result(model_folder: Path, case_folder: Path) -> None:
    paths = {name: case_folder / f"P01_{name}.nii.gz" for name in ("t1", "t2", "flair")}
    arrays = {name: np.asarray(nib.load(path).dataobj) for name, path in paths.items()}
    from_paths = dsdiff.synthesize(paths, model=model_folder)
    from_arrays = dsdiff.synthesize(arrays, LPS_AFFINE, model=model_folder)
    assert np.array_equal(from_paths.t1ce.array, from_arrays.t1ce.array)


def test_missing_and_unknown_contrasts_are_refused(model: Model) -> None:
    arrays = make_arrays()
    with pytest.raises(CaseError, match="flair is missing"):
        dsdiff.synthesize({"t1": arrays["t1"], "t2": arrays["t2"]}, model=model)
    with pytest.raises(CaseError, match="the model takes t1, t2, flair; contrast pd is none of them"):
        dsdiff.synthesize({**arrays, "pd": arrays["t1"]}, model=model)


def test_unusable_arrays_are_refused(model: Model) -> None:
    arrays = make_arrays()
    with pytest.raises(GeometryError, match="t2 is"):
        dsdiff.synthesize({**arrays, "t2": arrays["t2"][1:]}, model=model)
    with pytest.raises(InputError, match="not finite"):
        dsdiff.synthesize({**arrays, "t2": arrays["t2"] * np.nan}, model=model)
    with pytest.raises(InputError, match="3-D"):
        dsdiff.synthesize({**arrays, "t2": arrays["t2"][0]}, model=model)
    with pytest.raises(InputError, match="t2 is a list"):
        dsdiff.synthesize({**arrays, "t2": arrays["t2"].tolist()}, model=model)


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan)])
def test_unusable_affine_is_refused(model: Model, affine: np.ndarray) -> None:
    with pytest.raises(GeometryError, match="affine that cannot be used"):
        dsdiff.synthesize(make_arrays(), affine, model=model)


def test_impossible_options_are_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="seed is -1"):
        dsdiff.synthesize(make_arrays(), model=model, seed=-1)
    with pytest.raises(ConfigError, match="steps and samples are 0 and 1"):
        Pipeline(model, SynthesisOptions(steps=0))
    with pytest.raises(ConfigError, match="deterministic"):
        plan_sampling(model, SynthesisOptions(steps=1, samples=3))


def test_unknown_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'nonesuch' is unknown: .*default"):
        load_model("nonesuch", CPU)


def test_weights_of_another_config_are_refused(damaged_model: Path) -> None:
    config = damaged_model / "config.yaml"
    config.write_text(config.read_text().replace("- 1\n    - 1", "- 1\n    - 2"))
    with pytest.raises(ModelError, match="do not match"):
        load_model(damaged_model, CPU)


def test_model_of_another_target_is_refused(damaged_model: Path) -> None:
    config = damaged_model / "config.yaml"
    config.write_text(config.read_text().replace("target: t1ce", "target: swi"))
    with pytest.raises(ModelError, match=r"data\.target is 'swi'; dsdiff synthesizes and scores only t1ce"):
        load_model(damaged_model, CPU)


@pytest.mark.parametrize("content", [b"5\n", b"\xff\xfe", b"- 1\n", b"a: &x [*x]\n"])
def test_damaged_config_is_refused(damaged_model: Path, content: bytes) -> None:
    (damaged_model / "config.yaml").write_bytes(content)
    with pytest.raises(ModelError):
        load_model(damaged_model, CPU)


def test_config_cannot_name_code_outside_dsdiff(damaged_model: Path) -> None:
    (damaged_model / "config.yaml").write_text("backbone: {target: os.system, params: {command: ls}}\n")
    with pytest.raises(ModelError, match=r"'os\.system' is unknown"):
        load_model(damaged_model, CPU)
