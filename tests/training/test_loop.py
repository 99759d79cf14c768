import pytest
import torch
from safetensors.torch import load_file

from dsdiff.config.run import parse_config, strip_local_paths
from dsdiff.config.training import TrainingConfig
from dsdiff.data import assemble_cohort, build_store, store
from dsdiff.data.store import StoreSettings
from dsdiff.errors import ConfigError, ModelError
from dsdiff.inference.model import Model, load_model
from dsdiff.io import splits
from dsdiff.model import checkpoint
from dsdiff.model.postprocess import ScaleStacking
from dsdiff.system.graceful_stop import GracefulStop
from dsdiff.training import loop, resume
from dsdiff.training.ema import EMA
from dsdiff.training.metrics_logger import LOG_FILE, read_log
from dsdiff.training.trainer import TrainingDivergedError
from dsdiff.training.validate import validate, validate_patient
from tests.toy_data import TINY_CONFIG, randomize_zeros, write_case

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(3):
        write_case(folder / "patients", f"P{seed}", seed)
    splits.write(splits.make(["P0", "P1", "P2"], 3, 0), folder / "split.json")
    return folder


def config(cohort, **training):
    data = {**TINY_CONFIG["data"], "root": str(cohort / "patients"), "split": str(cohort / "split.json"), "fold": 0}
    return parse_config({**TINY_CONFIG, "data": data, "training": {**TINY_CONFIG["training"], **training}}, "test")


def assemble(config):
    return assemble_cohort.assemble_cohort(config.data, "none")


def test_a_resumed_run_equals_an_uninterrupted_run(cohort, tmp_path, monkeypatch):
    uninterrupted_model = loop.train(config(cohort, steps=6), tmp_path / "uninterrupted", CPU)
    train_step, n_calls = loop.Trainer.train_step, 0

    def interrupt_fourth_step(self, *args):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 4:
            raise KeyboardInterrupt
        return train_step(self, *args)

    monkeypatch.setattr(loop.Trainer, "train_step", interrupt_fourth_step)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config(cohort, steps=6), tmp_path / "interrupted", CPU)
    resumed_model = loop.train(config(cohort, steps=6), tmp_path / "interrupted", CPU)

    assert [entry["step"] for entry in read_log(tmp_path / "interrupted" / LOG_FILE)] == [0, 1, 2, 3, 4, 5, 6]
    expected, resumed = (load_file(model / "model.safetensors") for model in (uninterrupted_model, resumed_model))
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_a_run_learns_and_writes_its_model(cohort, tmp_path):
    run_dir = tmp_path / "run"
    settings = config(cohort, steps=40, lr=2e-3, validate_every=20, ema=0.5)
    untrained = loop.Trainer(settings, CPU)
    untrained_loss = validate(untrained, assemble(settings).held_out, tmp_path / "untrained.png", GracefulStop()).loss
    model = loop.train(settings, run_dir, CPU)

    log = read_log(run_dir / LOG_FILE)
    assert [entry["step"] for entry in log] == list(range(41))
    assert log[-1]["validation"] < 0.7 * untrained_loss
    assert sum("validation" in entry for entry in log) == 3

    split = splits.read(cohort / "split.json")
    metadata = checkpoint.read_metadata(model)
    assert len(metadata.training_index.rows) == 2
    assert metadata.preprocessing.settings == {
        "contrasts": ["t1", "t2", "flair"],
        "source_contrast": "t1",
        "target": "t1ce",
        "planes": ["axial"],
    }
    assert metadata.to_dict().keys() == {"steps", "split", "fold", "preprocessing", "training_index"}
    assert (metadata.steps, metadata.held_out_fold) == (40, (split.hash, 0))

    assert (run_dir / "samples" / "step-000020.png").stat().st_size > 1000
    assert load_model(model, CPU).config == strip_local_paths(settings)
    assert str(cohort) not in (model / "config.yaml").read_text()
    assert all(name in (model / "README.md").read_text() for name in split.held_out(0))


def test_validation_applies_the_postprocessing_of_the_model(cohort):
    """As synthesis does; a constant output without style image is not recombined, so one with style is scored."""
    data = {**TINY_CONFIG["data"], "root": str(cohort / "patients")}
    settings = parse_config({**TINY_CONFIG, "data": data, "conditioning": {"style": "linear"}}, "test")
    training_data = assemble_cohort.assemble_cohort(settings.data, "linear")
    trainer = loop.Trainer(settings, CPU)
    randomize_zeros(trainer.network)
    trainer.fit_metadata(training_data)
    patient = training_data.training[0]
    scores = {}
    for name, stacking in (("plain", None), ("zero", ScaleStacking((0.0, 0.0), (1.0, 0.0, 0.0, 0.0)))):
        metadata = trainer.metadata.model_copy(update={"postprocessing": stacking})
        network = trainer.network.eval()
        model = Model(name, "", settings, network, trainer.process, settings.build_sampler(), CPU, metadata=metadata)
        scores[name] = validate_patient(model, patient, patient.style_codes.expected)["psnr"]
    assert scores["plain"] != scores["zero"]


def test_accumulated_parts_give_the_gradient_of_the_full_batch(cohort):
    trained_weights = []
    for size, accumulate in ((4, 1), (2, 2), (1, 4)):
        trainer = loop.Trainer(config(cohort, batch_size=size, accumulate=accumulate), CPU)
        trainer.optimizer = torch.optim.SGD(trainer.network.parameters())  # Adam would divide rounding by rounding
        batches = loop.training_batches(trainer.config, assemble(trainer.config))
        for step in range(3):
            trainer.train_step(batches.load_step(step), torch.Generator().manual_seed(step))
        weights = [parameter.detach().flatten() for parameter in trainer.network.parameters()]
        trained_weights.append(torch.cat(weights))
    assert torch.allclose(trained_weights[0], trained_weights[1], atol=1e-6)
    assert torch.allclose(trained_weights[0], trained_weights[2], atol=1e-6)


def test_the_held_out_fold_is_never_trained_on(cohort):
    data = assemble(config(cohort))
    held_out = splits.read(cohort / "split.json").held_out(0)
    assert {patient.name for patient in data.held_out} == set(held_out)
    assert {patient.name for patient in data.training} == {"P0", "P1", "P2"} - set(held_out)
    assert data.phantoms == []


def test_a_later_visit_of_a_held_out_patient_is_not_trained_on(tmp_path):
    first, second, later = (f"BraTS-GLI-0000{patient}-00{visit}" for patient, visit in ((1, 0), (2, 0), (1, 1)))
    for seed, name in enumerate((first, second, later)):
        write_case(tmp_path / "patients", name, seed)
    splits.write(splits.Split(((first,), (second,)), 0), tmp_path / "split.json")
    data = assemble(config(tmp_path))
    assert [patient.name for patient in data.held_out] == [first]
    assert [patient.name for patient in data.training] == [second]

    phantoms = config(tmp_path).data.model_copy(update={"root": tmp_path / "two", "phantoms": tmp_path / "later"})
    for folder, name in (("two", first), ("two", second), ("later", later)):
        write_case(tmp_path / folder, name)
    with pytest.raises(ConfigError, match=rf"holds cases of the held-out fold \({later}\)"):
        assemble_cohort.assemble_cohort(phantoms, "none")


def test_a_fold_that_holds_out_every_patient_is_rejected(cohort, tmp_path):
    (name,) = splits.read(cohort / "split.json").held_out(0)
    write_case(tmp_path, name)
    data = config(cohort).data.model_copy(update={"root": tmp_path})
    with pytest.raises(ConfigError, match=r"fold 0 of .*split\.json holds out every patient"):
        assemble_cohort.assemble_cohort(data, "linear")


def test_a_run_needs_its_store_and_a_finished_model_keeps_its_hash(tmp_path):
    for seed in range(2):
        write_case(tmp_path / "patients", f"P{seed}", seed)
    build_store.prepare_cases(tmp_path / "patients", tmp_path / "store", StoreSettings(), 1)

    data = {**TINY_CONFIG["data"], "root": str(tmp_path / "store")}
    settings = parse_config({**TINY_CONFIG, "data": data, "training": {**TINY_CONFIG["training"], "steps": 2}}, "test")
    model = checkpoint.read_model(loop.train(settings, tmp_path / "run", CPU))
    assert model.metadata.store == store.open_store(tmp_path / "store").hash
    assert set(model.metadata.preprocessing.scales) == {"t1", "t2", "flair", "t1ce"}

    (tmp_path / "store").rename(tmp_path / "elsewhere")
    model_again = checkpoint.read_model(loop.train(settings, tmp_path / "run", CPU))
    assert model_again.hash == model.hash

    (tmp_path / "elsewhere").rename(tmp_path / "store")
    write_case(tmp_path / "patients", "P2", 2)
    build_store.prepare_cases(tmp_path / "patients", tmp_path / "store", StoreSettings(), 1)
    with pytest.raises(ConfigError, match="cases were added, removed or changed"):
        loop.train(settings, tmp_path / "run", CPU)


def test_the_folder_of_another_config_is_rejected_with_the_difference(cohort, tmp_path):
    loop.init_run_dir(tmp_path / "run", config(cohort, lr=1e-2))  # nothing was trained with it
    loop.init_run_dir(tmp_path / "run", config(cohort))
    (tmp_path / "run" / LOG_FILE).touch()
    with pytest.raises(ConfigError, match=r"another config: training\.lr: 0\.0003 there, 0\.001 here"):
        loop.init_run_dir(tmp_path / "run", config(cohort, lr=1e-3))


def test_a_config_without_a_new_key_is_the_same_config(cohort, tmp_path):
    loop.init_run_dir(tmp_path / "run", config(cohort))
    config_file = tmp_path / "run" / "config.yaml"
    config_file.write_text(config_file.read_text().replace("sampler: null\n", ""))
    loop.init_run_dir(tmp_path / "run", config(cohort))
    assert "sampler: null" in config_file.read_text()


def test_a_damaged_state_and_a_diverging_run_are_reported(cohort, tmp_path):
    loop.init_run_dir(tmp_path / "run", config(cohort))
    (tmp_path / "run" / resume.STATE_FILE).write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match=r"state\.safetensors cannot be read"):
        loop.train(config(cohort), tmp_path / "run", CPU)
    with pytest.raises(TrainingDivergedError, match=r"loss is (nan|inf)"):
        loop.train(config(cohort, lr=1e30, clip=1e30, steps=20), tmp_path / "wild", CPU)


def test_learning_rate_warms_up_and_decays():
    settings = TrainingConfig(steps=100, warmup=10, lr=1.0)
    rates = [loop.learning_rate(settings, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9], abs=0.03)
    assert rates[100] == pytest.approx(0.01)
    assert rates[50] == pytest.approx(0.505, abs=0.01)


def test_the_average_follows_the_weights():
    network = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(network, decay=0.9)
    initial_weight = network.weight.item()
    with torch.no_grad():
        network.weight += 1
    ema.update(network, step=10**6)
    assert ema.weights["weight"].item() == pytest.approx(initial_weight + 0.1)
