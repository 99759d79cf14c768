"""Two scanners that differ in the tissue contrast of the T1ce: the style decides, and enhancement stays in place."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch

from dsdiff.config.run import parse_config
from dsdiff.data import assemble_cohort, preparation, target_style
from dsdiff.errors import ConfigError, InputError
from dsdiff.evaluation import voxelwise
from dsdiff.inference.input_check import TRAINING_PATIENT
from dsdiff.inference.model import Model, load_model
from dsdiff.inference.options import SynthesisOptions
from dsdiff.inference.outputs import describe_style
from dsdiff.inference.pipeline import Pipeline
from dsdiff.inference.style_reference import StyleReference, read_style
from dsdiff.io import splits
from dsdiff.io.cases import discover_cases
from dsdiff.qc.features import measure_features
from dsdiff.style import regression
from dsdiff.style.regression import StyleCode
from dsdiff.training import loop
from dsdiff.volume import Volume
from tests.toy_data import LPS_AFFINE, TINY_CONFIG, make_patient, randomize_zeros, write_case

CPU = torch.device("cpu")
SOURCES = ("t1", "t2", "flair")


def find_gray_matter(images):
    return (images["t1"] > 0) & (images["t1"] < 560) & (images["seg"] == 0)


def write_case_of_scanner_b(folder, name, seed):
    """Write a case whose T1ce shows gray matter brighter than white matter, not darker."""
    case_folder, images = write_case(folder, name, seed), make_patient(seed)
    t1ce = images["t1ce"] + 160 * find_gray_matter(images)
    nib.save(nib.Nifti1Image(t1ce.astype(np.int16), LPS_AFFINE), case_folder / f"{name}_t1ce.nii.gz")


def make_volumes(seed):
    images = make_patient(seed)
    return {name: Volume(images[name], LPS_AFFINE) for name in SOURCES}


def synthesize(model, volumes, style=None):
    return Pipeline(model, SynthesisOptions(style=style)).synthesize_volumes(volumes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three cases of each scanner."""
    folder = tmp_path_factory.mktemp("scanners")
    for seed in range(3):
        write_case(folder, f"A{seed}", seed)
        write_case_of_scanner_b(folder, f"B{seed}", seed + 3)
    return folder


@pytest.fixture(scope="module")
def trained_model(folder):
    """A model trained for a few seconds on two patients of each scanner."""
    values = {
        **TINY_CONFIG,
        "data": TINY_CONFIG["data"] | {"context_slices": 1, "augment": False, "style_dropout": 0.2},
        "training": TINY_CONFIG["training"] | {"batch_size": 4, "lr": 2e-3, "steps": 90},
        "conditioning": {"style": "linear"},
        "backbone": {"target": "unet", "params": TINY_CONFIG["backbone"]["params"] | {"use_scale_shift_norm": True}},
    }
    config = parse_config(values, "two scanners")
    cases = [case for case in discover_cases(folder) if not case.name.endswith("2")]
    patients = [preparation.load_patient(case, SOURCES, "t1ce") for case in cases]
    patients, style_stats = target_style.attach_style_codes(patients, "linear")
    data = assemble_cohort.TrainingData(patients, style_stats=style_stats)

    trainer = loop.Trainer(config, CPU)
    trainer.fit_metadata(data)
    batches = loop.training_batches(config, data)
    for step in range(config.training.steps):
        trainer.train_step(batches.load_step(step), torch.Generator().manual_seed(step))
    network = trainer.network.eval()
    return Model("two", "0", config, network, trainer.process, config.build_sampler(), CPU)


def test_a_style_changes_tissue_contrast_but_not_enhancement(trained_model, folder):
    styles = {name: read_style(folder / name, trained_model) for name in ("A2", "B2")}
    results = {"average": synthesize(trained_model, make_volumes(2))}
    for name, style in styles.items():
        results[name] = synthesize(trained_model, make_volumes(2), style)

    images = make_patient(2)
    box = results["average"].geometry.box
    lesion, brain = (np.flip(images[name], (0, 1))[box] > 0 for name in ("seg", "t1"))
    gray_matter = np.flip(find_gray_matter(images), (0, 1))[box]
    white_matter = brain & ~lesion & ~gray_matter
    contrast = {name: result.z[gray_matter].mean() - result.z[white_matter].mean() for name, result in results.items()}
    assert contrast["A2"] < -0.3 < 0.3 < contrast["B2"]
    assert contrast["A2"] < contrast["average"] < contrast["B2"]

    for name, result in results.items():
        enhancement = result.z - result.case.images["t1"]
        assert voxelwise.auc(enhancement, lesion, white_matter) > 0.99, name
    mean_in_lesion = {name: results[name].z[lesion].mean() for name in ("A2", "B2")}
    assert mean_in_lesion["A2"] > 2
    assert mean_in_lesion["A2"] == pytest.approx(mean_in_lesion["B2"], rel=0.5)


def test_a_style_code_hardly_depends_on_enhancement_and_not_on_position():
    images = make_patient(2)
    sources = [images[name] / 100 for name in SOURCES]
    brain, lesion = images["t1"] > 0, images["seg"] > 0
    tissue = brain & ~lesion
    plain_t1ce = np.where(lesion, images["t1"], images["t1ce"]) / 100

    def fit_and_predict(t1ce):
        return regression.fit_style(sources, t1ce, brain).predict(sources, brain)[tissue]

    plain = fit_and_predict(plain_t1ce)
    enhancing = fit_and_predict(plain_t1ce + 6 * lesion)
    restyled = fit_and_predict(plain_t1ce + 1.6 * find_gray_matter(images))
    assert np.abs(plain - enhancing).mean() < 0.15 * np.abs(plain - restyled).mean()

    shifted_sources = [np.roll(source, 3, 0) for source in sources]
    shifted = regression.fit_style(shifted_sources, np.roll(plain_t1ce, 3, 0), np.roll(brain, 3, 0))
    assert np.allclose(shifted.weights, regression.fit_style(sources, plain_t1ce, brain).weights, atol=1e-4)


def test_a_style_without_style_conditioning_is_rejected(model_folder, folder):
    with pytest.raises(ConfigError, match=r"was trained without style conditioning"):
        read_style(folder / "A0", load_model(model_folder, CPU))
    with pytest.raises(ConfigError, match=r"conditioning\.style"):
        parse_config({"data": {"target_style": "average"}, "conditioning": {"style": "linear"}}, "test")


def test_a_folder_of_several_cases_is_no_style_reference(trained_model, folder):
    with pytest.raises(InputError, match="holds 6 cases; a style reference needs exactly one"):
        read_style(folder, trained_model)


def test_the_average_style_of_the_training_patients_is_stored_in_the_model(folder, tmp_path, cli):
    splits.write(splits.make([case.name for case in discover_cases(folder)], 3, 0), tmp_path / "split.json")
    data = {"root": str(folder), "split": str(tmp_path / "split.json"), "fold": 0}
    data |= {"context_slices": 1, "crop": [32, 48]}
    config = parse_config({**TINY_CONFIG, "data": data, "conditioning": {"style": "linear"}}, "test")
    model_path = loop.train(config, tmp_path / "run", CPU)

    cohort = assemble_cohort.assemble_cohort(config.data, "linear")
    stored_style = load_model(model_path, CPU).network.conditioner.average_style
    average_style = torch.from_numpy(cohort.style_stats.average.weights).float()
    assert torch.allclose(stored_style, average_style, atol=2e-3)
    assert cohort.held_out[0].style_codes is None

    for out, options in (("average", ()), ("B", ("--style", folder / "B0"))):
        code, output = cli("synth", folder / "A0", "-o", tmp_path / out, "--model", model_path, *options)
        assert code == 0, output
    case_folders = {out: tmp_path / out / "A0" for out in ("average", "B")}
    styles = {out: json.loads((path / "provenance.json").read_text())["style"] for out, path in case_folders.items()}
    assert styles["average"] == "average"
    assert re.fullmatch(r"of B0 \([0-9a-f]{8}\)", styles["B"])
    images = [nib.load(path / "A0_desc-synthT1ce_T1w.nii.gz").get_fdata() for path in case_folders.values()]
    assert not np.array_equal(*images)


def test_without_a_reference_the_style_of_similar_patients_is_taken(tmp_path):
    for seed in range(5):
        write_case(tmp_path / "cohort", f"A{seed}", seed)
        write_case_of_scanner_b(tmp_path / "cohort", f"B{seed}", seed + 5)
    for seed in (20, 21):
        write_case(tmp_path / "phantoms", f"F{seed}", seed)
    names = [f"{scanner}{seed}" for scanner in "AB" for seed in range(5)]
    split = splits.make(names, 5, 0)
    splits.write(split, tmp_path / "split.json")
    data = {"root": str(tmp_path / "cohort"), "split": str(tmp_path / "split.json"), "fold": 0, "context_slices": 1}
    training = TINY_CONFIG["training"] | {"steps": 2, "validate_every": 2, "validate_volumes": 1}
    values = {
        **TINY_CONFIG,
        "data": data | {"crop": [32, 48]},
        "training": training,
        "conditioning": {"style": "curves"},
    }
    config = parse_config(values, "test")

    cohort = assemble_cohort.assemble_cohort(config.data, "curves")
    for held_out_patient in cohort.held_out:  # its own style is unknown
        assert held_out_patient.style_codes.target is held_out_patient.style_codes.expected
    for training_patient in cohort.training:
        codes = training_patient.style_codes
        assert not np.array_equal(codes.target.weights, codes.expected.weights)
    data_with_phantoms = config.data.model_copy(update={"phantoms": tmp_path / "phantoms"})
    cohort_with_phantoms = assemble_cohort.assemble_cohort(data_with_phantoms, "curves")
    assert cohort.style_stats.retriever.n_phantoms == 0
    assert cohort_with_phantoms.style_stats.retriever.n_phantoms == 2

    model = load_model(loop.train(config, tmp_path / "run", CPU), CPU)
    randomize_zeros(model.network)
    result = synthesize(model, make_volumes(9))
    expected_style = model.metadata.style_retriever.predict_style(measure_features(result.case))
    average_style = StyleCode("curves", model.network.conditioner.average_style.double().numpy())
    expected = synthesize(model, make_volumes(9), StyleReference("expected", expected_style))
    average = synthesize(model, make_volumes(9), StyleReference("average", average_style))
    assert np.array_equal(result.z, expected.z)
    assert not np.array_equal(result.z, average.z)
    assert describe_style(model, None) == "of the most similar training cases"

    training_seed = next(seed for seed in range(5) if f"A{seed}" not in split.held_out(0))
    stored_volumes = {
        name: Volume(volume.array.astype(np.int16).astype(np.float32), LPS_AFFINE)
        for name, volume in make_volumes(training_seed).items()
    }
    assert TRAINING_PATIENT in synthesize(model, stored_volumes).warnings
    assert TRAINING_PATIENT not in result.warnings
