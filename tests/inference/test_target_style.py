"""Two scanners that differ in the tissue contrast of the T1ce: the style decides, and enhancement stays in place."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.data import dataloader, dataset, splits
from dsdiff.errors import ConfigError, InputError
from dsdiff.evaluation import voxelwise
from dsdiff.inference import model as models
from dsdiff.inference import outputs as case_io
from dsdiff.inference import style_reference
from dsdiff.inference.pipeline import SEEN, run
from dsdiff.io import cases
from dsdiff.qc import ood
from dsdiff.style import regression
from dsdiff.training import loop
from dsdiff.volume import Volume
from tests.toy_data import LPS, TINY, patient, wake, write_case

CPU, SOURCES = torch.device("cpu"), ("t1", "t2", "flair")


def grey(images):
    return (images["t1"] > 0) & (images["t1"] < 560) & (images["seg"] == 0)


def other_scanner(folder, name, seed):
    """A case whose T1ce shows grey matter brighter than white, not darker."""
    case, images = write_case(folder, name, seed), patient(seed)
    array = images["t1ce"] + 160 * grey(images)
    nib.save(nib.Nifti1Image(array.astype(np.int16), LPS), case / f"{name}_t1ce.nii.gz")
    return case


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scanners")
    for seed in range(3):
        write_case(folder, f"A{seed}", seed)
        other_scanner(folder, f"B{seed}", seed + 3)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """A model trained for a few seconds on two patients of either scanner."""
    data = TINY["data"] | {"context_slices": 1, "augment": False, "style_dropout": 0.2}
    training = TINY["training"] | {"batch_size": 4, "lr": 2e-3, "steps": 90}
    params = TINY["backbone"]["params"] | {"use_scale_shift_norm": True}
    config = configs.parse({**TINY, "data": data, "training": training, "conditioning": {"style": "linear"}, "backbone": {"target": "unet", "params": params}}, "two scanners")  # fmt: skip
    trainer = loop.Trainer(config, CPU)
    loaded = [dataset.load(case, SOURCES, "t1ce") for case in cases.discover(folder) if not case.name.endswith("2")]
    patients, styles = dataset.with_styles(loaded, "linear")
    everybody = dataset.Cohort(patients, styles=styles)
    trainer.learn(everybody)
    drawn = loop.draws(config, everybody)
    for step in range(config.training.steps):
        trainer.train_step(drawn.at(step), torch.Generator().manual_seed(step))
    network = trainer.network.eval()
    return models.Model("two", "0", config, network, trainer.process, config.build_sampler(), CPU)


def test_a_style_changes_tissue_contrast_and_leaves_enhancement_where_it_was(trained, folder):
    images = patient(2)
    volumes = {name: Volume(images[name], LPS) for name in SOURCES}
    told = {name: style_reference.read(folder / name, trained) for name in ("A2", "B2")}
    made = {name: run(volumes, trained, style=one) for name, one in told.items()} | {"average": run(volumes, trained)}
    box = made["average"].prepared.box
    canonical = {name: np.flip(images[name], (0, 1))[box] for name in ("t1", "seg")}
    lesion, brain = canonical["seg"] > 0, canonical["t1"] > 0
    dark = np.flip(grey(images), (0, 1))[box]
    white = brain & ~lesion & ~dark
    contrast = {name: result.z[dark].mean() - result.z[white].mean() for name, result in made.items()}
    assert contrast["A2"] < -0.3 < 0.3 < contrast["B2"]
    assert contrast["A2"] < contrast["average"] < contrast["B2"]
    for name, result in made.items():
        enhancement = result.z - result.prepared.images["t1"]
        assert voxelwise.auc(enhancement, lesion, white) > 0.99, name
    one, other = (made[name].z[lesion].mean() for name in ("A2", "B2"))
    assert one > 2
    assert one == pytest.approx(other, rel=0.5)


def test_enhancement_hardly_moves_the_code_and_no_registration_is_needed(trained, folder):
    images = patient(2)
    sources = [images[name] / 100 for name in SOURCES]
    brain, lesion = images["t1"] > 0, images["seg"] > 0
    without = np.where(lesion, images["t1"], images["t1ce"]) / 100
    targets = (without, without + 6 * lesion, without + 1.6 * grey(images))
    plain, enhancing, other = (regression.own_style(sources, t1ce, brain) for t1ce in targets)
    tissue = brain & ~lesion
    drawn = [one.predict(sources, brain)[tissue] for one in (plain, enhancing, other)]
    assert np.abs(drawn[0] - drawn[1]).mean() < 0.15 * np.abs(drawn[0] - drawn[2]).mean()
    moved = [np.roll(source, 3, 0) for source in sources]  # the whole reference elsewhere: the same code
    again = regression.own_style(moved, np.roll(without, 3, 0), np.roll(brain, 3, 0))
    assert np.allclose(again.weights, plain.weights, atol=1e-4)


def test_what_has_no_style_is_refused(model_folder, folder):
    with pytest.raises(ConfigError, match=r"was trained without conditioning\.style"):
        style_reference.read(folder / "A0", models.load(model_folder, CPU))
    with pytest.raises(ConfigError, match=r"conditioning\.style 'linear' tells the style of each target"):
        configs.parse({"data": {"target_style": "average"}, "conditioning": {"style": "linear"}}, "test")


def test_a_style_goes_from_training_to_the_command_line(folder, tmp_path, cli, trained):
    splits.write(splits.make([case.name for case in cases.discover(folder)], 3, 0), tmp_path / "split.json")
    data = {
        "root": str(folder),
        "split": str(tmp_path / "split.json"),
        "fold": 0,
        "context_slices": 1,
        "crop": [32, 48],
    }
    config = configs.parse({**TINY, "data": data, "conditioning": {"style": "linear"}}, "test")
    model = loop.train(config, tmp_path / "run", CPU, loop.Console(quiet=True))
    patients = dataloader.gather(config.data, "linear", loop.Console(quiet=True))
    kept = models.load(model, CPU).network.conditioner.average_style
    assert torch.allclose(kept, torch.from_numpy(patients.styles.average).float(), atol=2e-3)
    assert patients.held_out[0].styles is None
    with pytest.raises(InputError, match="holds 6 cases; the reference of a style is one"):
        style_reference.read(folder, trained)
    for out, options in (("average", ()), ("B", ("--style", folder / "B0"))):
        code, said = cli("synth", folder / "A0", "-o", tmp_path / out, "--model", model, *options)
        assert code == 0, said
    facts = [json.loads((tmp_path / out / "A0" / "provenance.json").read_text()) for out in ("average", "B")]
    assert facts[0]["style"] == "average"
    assert re.fullmatch(r"of B0 \([0-9a-f]{8}\)", facts[1]["style"])
    made = [nib.load(tmp_path / out / "A0" / "A0_desc-synthT1ce_T1w.nii.gz").get_fdata() for out in ("average", "B")]
    assert not np.array_equal(*made)


def test_curves_of_the_nearest_patients_are_told_where_no_reference_is(tmp_path):
    for seed in range(5):
        write_case(tmp_path / "cohort", f"A{seed}", seed)
        other_scanner(tmp_path / "cohort", f"B{seed}", seed + 5)
    splits.write(splits.make([f"{s}{n}" for s in "AB" for n in range(5)], 5, 0), tmp_path / "split.json")
    data = {"root": str(tmp_path / "cohort"), "split": str(tmp_path / "split.json"), "fold": 0, "context_slices": 1}
    training = TINY["training"] | {"steps": 2, "validate_every": 2, "validate_volumes": 1}
    given = {**TINY, "data": data | {"crop": [32, 48]}, "training": training, "conditioning": {"style": "curves"}}
    config = configs.parse(given, "test")
    patients = dataloader.gather(config.data, "curves", loop.Console(quiet=True))
    assert all(np.array_equal(*one.styles) for one in patients.held_out)  # expected, and never its own
    assert not any(np.array_equal(*one.styles) for one in patients.training)
    for seed in (20, 21):
        write_case(tmp_path / "phantoms", f"F{seed}", seed)
    mixed = dataloader.gather(
        config.data.model_copy(update={"phantoms": tmp_path / "phantoms"}), "curves", loop.Console(quiet=True)
    )
    assert (patients.styles.nearest.simulated, mixed.styles.nearest.simulated) == (0, 2)
    model = models.load(loop.train(config, tmp_path / "run", CPU, loop.Console(quiet=True)), CPU)
    wake(model.network)
    volumes = {name: Volume(patient(9)[name], LPS) for name in SOURCES}
    made = run(volumes, model)
    expected = model.nearest.code(ood.measure(made.prepared))
    assert np.array_equal(made.z, run(volumes, model, style=style_reference.Reference("expected", expected)).z)
    average = model.network.conditioner.average_style.double().numpy()
    assert not np.array_equal(made.z, run(volumes, model, style=style_reference.Reference("average", average)).z)
    assert case_io.described(model, None) == "of the training cases most like it"
    hidden = splits.read(tmp_path / "split.json").held_out(0)
    seen = next(seed for seed in range(5) if f"A{seed}" not in hidden)
    again = run({name: Volume(patient(seen)[name].astype(np.int16).astype(np.float32), LPS) for name in SOURCES}, model)
    assert SEEN in again.warnings
    assert SEEN not in made.warnings
