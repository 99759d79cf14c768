import nibabel as nib
import numpy as np
import pytest
import torch

import dsdiff
from dsdiff.errors import CaseError, ConfigError, GeometryError, InputError, ModelError
from dsdiff.inference import model as models
from dsdiff.inference.options import Sampling, plan
from dsdiff.inference.pipeline import run
from dsdiff.model import checkpoint
from dsdiff.volume import Volume
from tests.toy_data import LPS, patient


@pytest.fixture(scope="module")
def model(model_folder):
    return models.load(model_folder, torch.device("cpu"))


def arrays():
    return {name: array for name, array in patient().items() if name in ("t1", "t2", "flair")}


def volumes(affine=LPS):
    return {name: Volume(array, affine) for name, array in arrays().items()}


def test_the_result_lies_on_t1s_grid_and_is_zero_outside_the_brain(model):
    t1 = arrays()["t1"]
    result = dsdiff.synthesize(arrays(), LPS, model=model)
    assert result.t1ce.array.dtype == np.float32
    assert np.array_equal(result.t1ce.affine, LPS)
    assert not result.t1ce.array[t1 == 0].any()
    inside = result.t1ce.array[t1 > 0]
    assert not np.allclose(inside, t1[t1 > 0])  # the weights are awake
    assert 0.5 < np.median(inside) / np.median(t1[t1 > 0]) < 2  # T1's intensity scale
    assert result.std is None
    assert result.sampling == Sampling(1)


def test_the_same_seed_gives_the_same_bits_and_another_other_samples(model):
    first, again, other = (run(volumes(), model, plan(model, samples=2, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.t1ce.array, again.t1ce.array)
    assert np.array_equal(first.std.array, again.std.array)
    assert not np.array_equal(first.t1ce.array, other.t1ce.array)
    assert first.sampling.steps > 1
    assert (first.std.array[first.t1ce.array != 0] > 0).mean() > 0.9  # bf16 may round two samples to one value
    assert not first.std.array[volumes()["t1"].array == 0].any()


@pytest.mark.parametrize("codes", ["RAS", "SPL", "AIR"])
def test_a_reoriented_case_gives_the_reoriented_result(model, codes):
    moved = {}
    for name, volume in volumes().items():
        image = nib.as_closest_canonical(nib.Nifti1Image(volume.array, LPS))
        image = image.as_reoriented(nib.orientations.axcodes2ornt(codes))
        moved[name] = Volume(np.asarray(image.dataobj), image.affine)
    plain, other = run(volumes(), model), run(moved, model)
    assert np.array_equal(other.t1ce.affine, moved["t1"].affine)
    back, reference = (
        np.asarray(nib.as_closest_canonical(nib.Nifti1Image(v.array, v.affine)).dataobj)
        for v in (other.t1ce, plain.t1ce)
    )
    assert np.array_equal(back, reference)


def test_intensity_units_of_the_inputs_do_not_matter(model):
    scaled = {name: Volume(3 * v.array if name == "t1" else 0.1 * v.array, LPS) for name, v in volumes().items()}
    difference = run(scaled, model).t1ce.array / 3 - run(volumes(), model).t1ce.array
    assert np.abs(difference).max() < 0.05 * arrays()["t1"].std()  # bf16 rounds differently


def test_progress_reaches_one(model):
    seen = []
    run(volumes(), model, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_paths_are_taken_as_well_as_arrays(model_folder, case_folder):
    paths = {name: case_folder / f"P01_{name}.nii.gz" for name in ("t1", "t2", "flair")}
    from_paths = dsdiff.synthesize(paths, model=model_folder)
    loaded = {name: np.asarray(nib.load(path).dataobj) for name, path in paths.items()}
    assert np.array_equal(from_paths.t1ce.array, dsdiff.synthesize(loaded, LPS, model=model_folder).t1ce.array)


def test_what_cannot_be_is_refused(model):
    good = arrays()
    with pytest.raises(CaseError, match="flair is missing"):
        dsdiff.synthesize({"t1": good["t1"], "t2": good["t2"]}, model=model)
    with pytest.raises(CaseError, match="contrast pd is not one"):
        dsdiff.synthesize({**good, "pd": good["t1"]}, model=model)
    with pytest.raises(GeometryError, match="t2 is"):
        dsdiff.synthesize({**good, "t2": good["t2"][1:]}, model=model)
    with pytest.raises(InputError, match="not finite"):
        dsdiff.synthesize({**good, "t2": good["t2"] * np.nan}, model=model)
    with pytest.raises(InputError, match="3-D"):
        dsdiff.synthesize({**good, "t2": good["t2"][0]}, model=model)
    for affine in (np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan)):
        with pytest.raises(GeometryError, match="affine that cannot be used"):
            dsdiff.synthesize(good, affine, model=model)
    with pytest.raises(InputError, match="t2 is a list"):
        dsdiff.synthesize({**good, "t2": good["t2"].tolist()}, model=model)
    with pytest.raises(ConfigError, match="seed is -1"):
        dsdiff.synthesize(good, model=model, seed=-1)
    with pytest.raises(ConfigError, match="deterministic"):
        plan(model, steps=1, samples=3)


def test_unknown_and_damaged_models_are_refused(model_folder, tmp_path):
    cpu = torch.device("cpu")
    with pytest.raises(ModelError, match=r"'nonesuch' is unknown: .*default"):
        models.load("nonesuch", cpu)
    for name in ("model.safetensors", "config.yaml"):
        (tmp_path / name).write_bytes((model_folder / name).read_bytes())
    (tmp_path / "config.yaml").write_text(
        (tmp_path / "config.yaml").read_text().replace("- 1\n    - 1", "- 1\n    - 2")
    )
    with pytest.raises(ModelError, match="do not make a model"):
        models.load(tmp_path, cpu)
    config = (model_folder / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config.replace("target: t1ce", "target: swi"))
    with pytest.raises(ModelError, match=r"data\.target is 'swi'; what is synthesised and scored here is t1ce alone"):
        models.load(tmp_path, cpu)
    for odd in (b"5\n", b"\xff\xfe", b"- 1\n", b"a: &x [*x]\n"):
        (tmp_path / "config.yaml").write_bytes(odd)
        with pytest.raises(ModelError):
            models.load(tmp_path, cpu)
    held = checkpoint.read(model_folder)
    for facts in ({"calibration": "abc"}, []):
        checkpoint.save(tmp_path / "odd", held.weights, held.config, "", facts)
        with pytest.raises(ModelError):
            models.load(tmp_path / "odd", cpu)
    (tmp_path / "config.yaml").write_text("backbone: {target: os.system, params: {command: ls}}\n")
    with pytest.raises(ModelError, match=r"'os\.system' is unknown"):
        models.load(tmp_path, cpu)
