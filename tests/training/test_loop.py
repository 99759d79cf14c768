import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from dsdiff.config import run as configs
from dsdiff.config.run import TrainingConfig
from dsdiff.data import build_store, dataloader, splits
from dsdiff.data.store import Settings
from dsdiff.errors import ConfigError, DsdiffError, ModelError, OutputError
from dsdiff.inference import model as models
from dsdiff.model import checkpoint
from dsdiff.qc import membership
from dsdiff.system.graceful_stop import Stop
from dsdiff.training import loop, resume
from dsdiff.training.ema import EMA
from dsdiff.training.metrics_logger import LOG
from dsdiff.training.validate import validate
from tests.toy_data import TINY, write_case

CPU, QUIET = torch.device("cpu"), Console(quiet=True)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(3):
        write_case(folder / "patients", f"P{seed}", seed)
    splits.write(splits.make(["P0", "P1", "P2"], 3, 0), folder / "split.json")
    return folder


def config(cohort, **training):
    data = {**TINY["data"], "root": str(cohort / "patients"), "split": str(cohort / "split.json"), "fold": 0}
    return configs.parse({**TINY, "data": data, "training": {**TINY["training"], **training}}, "test")


def gathered(config):
    return dataloader.gather(config.data, "none", QUIET)


def test_a_stopped_run_resumed_is_the_run_that_never_stopped(cohort, tmp_path, monkeypatch):
    whole = loop.train(config(cohort, steps=6), tmp_path / "whole", CPU, QUIET)
    step, count = loop.Trainer.train_step, 0

    def stopping(self, *args):
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(loop.Trainer, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config(cohort, steps=6), tmp_path / "stopped", CPU, QUIET)
    resumed = loop.train(config(cohort, steps=6), tmp_path / "stopped", CPU, QUIET)
    steps = [json.loads(line)["step"] for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3, 4, 5, 6]
    a, b = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_learns_and_leaves_what_it_promises(cohort, tmp_path):
    run = tmp_path / "run"
    settings = config(cohort, steps=40, lr=2e-3, validate_every=20, ema=0.5)
    untrained = loop.Trainer(settings, CPU)
    before = validate(untrained, gathered(settings).held_out, tmp_path / "before.png", Stop()).loss
    model = loop.train(settings, run, CPU, QUIET)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(41))
    assert log[-1]["validation"] < 0.7 * before
    assert sum("validation" in entry for entry in log) == 3
    facts = checkpoint.read(model).facts
    told, known = json.loads(facts.pop("preprocessing")), membership.parse_index(facts.pop("known"), "model")
    assert len(known.rows) == 2
    assert told["settings"] == {
        "contrasts": ["t1", "t2", "flair"],
        "source_contrast": "t1",
        "target": "t1ce",
        "planes": ["axial"],
    }
    assert facts == {"steps": 40, "split": splits.read(cohort / "split.json").hash, "fold": 0}
    assert (run / "samples" / "step-000020.png").stat().st_size > 1000
    assert models.load(model, CPU).config == configs.portable(settings)
    assert str(cohort) not in (model / "config.yaml").read_text()
    assert all(name in (model / "README.md").read_text() for name in splits.read(cohort / "split.json").held_out(0))


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(cohort):
    ends = []
    for size, accumulate in ((4, 1), (2, 2), (1, 4)):
        trainer = loop.Trainer(config(cohort, batch_size=size, accumulate=accumulate), CPU)
        trainer.optimizer = torch.optim.SGD(trainer.network.parameters())  # Adam would divide rounding by rounding
        drawn = loop.draws(trainer.config, gathered(trainer.config))
        for step in range(3):
            trainer.train_step(drawn.at(step), torch.Generator().manual_seed(step))
        ends.append(torch.cat([p.detach().flatten() for p in trainer.network.parameters()]))
    assert torch.allclose(ends[0], ends[1], atol=1e-6)
    assert torch.allclose(ends[0], ends[2], atol=1e-6)


def test_the_held_out_fold_is_never_trained_on(cohort):
    patients = gathered(config(cohort))
    out = splits.read(cohort / "split.json").held_out(0)
    assert {p.name for p in patients.held_out} == set(out)
    assert {p.name for p in patients.training} == {"P0", "P1", "P2"} - set(out)
    assert patients.phantoms == []


def test_another_visit_of_who_is_held_out_is_not_trained_on_either(tmp_path):
    first, second, later = (f"BraTS-GLI-0000{patient}-00{visit}" for patient, visit in ((1, 0), (2, 0), (1, 1)))
    for seed, name in enumerate((first, second, later)):
        write_case(tmp_path / "patients", name, seed)
    splits.write(splits.Split(((first,), (second,)), 0), tmp_path / "split.json")
    patients = gathered(config(tmp_path))
    assert [p.name for p in patients.held_out] == [first]
    assert [p.name for p in patients.training] == [second]
    phantoms = config(tmp_path).data.model_copy(update={"root": tmp_path / "two", "phantoms": tmp_path / "later"})
    write_case(tmp_path / "two", first), write_case(tmp_path / "two", second), write_case(tmp_path / "later", later)
    with pytest.raises(ConfigError, match=rf"holds cases of the fold that is held out \({later}\)"):
        dataloader.gather(phantoms, "none", QUIET)


def test_a_fold_that_holds_everybody_out_leaves_nobody_to_train_on(cohort, tmp_path):
    (name,) = splits.read(cohort / "split.json").held_out(0)
    write_case(tmp_path, name)
    data = config(cohort).data.model_copy(update={"root": tmp_path})
    with pytest.raises(ConfigError, match=r"fold 0 of .*split\.json holds out every patient"):
        dataloader.gather(data, "linear", QUIET)


def test_a_run_is_bound_to_its_store_and_its_model_stays_as_it_is(tmp_path):
    for seed in range(2):
        write_case(tmp_path / "patients", f"P{seed}", seed)
    build_store.prepare(tmp_path / "patients", tmp_path / "store", Settings(), 1, QUIET)

    def asked(steps):
        data = {**TINY["data"], "root": str(tmp_path / "store")}
        return configs.parse({**TINY, "data": data, "training": {**TINY["training"], "steps": steps}}, "test")

    first = loop.train(asked(2), tmp_path / "run", CPU, QUIET)
    there = checkpoint.read(first)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    again = loop.train(asked(2), tmp_path / "run", CPU, QUIET)
    assert checkpoint.read(again).hash == there.hash
    assert "store" in there.facts
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    write_case(tmp_path / "patients", "P2", 2)
    build_store.prepare(tmp_path / "patients", tmp_path / "store", Settings(), 1, QUIET)
    with pytest.raises(ConfigError, match="cases were added, taken out or changed"):
        loop.train(asked(2), tmp_path / "run", CPU, QUIET)


def test_another_configs_folder_is_refused_with_the_difference(cohort, tmp_path):
    loop.claim(tmp_path / "run", config(cohort, lr=1e-2))  # and then nothing was trained
    loop.claim(tmp_path / "run", config(cohort))
    (tmp_path / "run" / LOG).touch()
    with pytest.raises(ConfigError, match=r"another config: training\.lr: 0\.0003 there, 0\.001 here"):
        loop.claim(tmp_path / "run", config(cohort, lr=1e-3))


def test_a_run_begun_before_a_key_existed_is_still_its_configs(cohort, tmp_path):
    loop.claim(tmp_path / "run", config(cohort))
    written = tmp_path / "run" / "config.yaml"
    written.write_text(written.read_text().replace("sampler: null\n", ""))
    loop.claim(tmp_path / "run", config(cohort))
    assert "sampler: null" in written.read_text()


def test_a_torn_state_and_a_diverging_run_are_named(cohort, tmp_path):
    loop.claim(tmp_path / "run", config(cohort))
    (tmp_path / "run" / resume.STATE).write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match=r"state\.safetensors cannot be read"):
        loop.train(config(cohort), tmp_path / "run", CPU, QUIET)
    with pytest.raises(DsdiffError, match=r"loss is (nan|inf)"):
        loop.train(config(cohort, lr=1e30, clip=1e30, steps=20), tmp_path / "wild", CPU, QUIET)


def test_learning_rate_warms_up_and_comes_down():
    settings = TrainingConfig(steps=100, warmup=10, lr=1.0)
    rates = [loop.learning_rate(settings, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(rates[9], abs=0.03)
    assert rates[100] == pytest.approx(0.01)
    assert rates[50] == pytest.approx(0.505, abs=0.01)


def test_the_average_moves_with_the_weights():
    network = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(network, decay=0.9)
    start = network.weight.item()
    with torch.no_grad():
        network.weight += 1
    ema.update(network, step=10**6)
    assert ema.weights["weight"].item() == pytest.approx(start + 0.1)


def test_model_folders_are_checked(tmp_path):
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        checkpoint.read(tmp_path)
    folder = tmp_path / "model"
    checkpoint.save(folder, {"w": torch.arange(3.0)}, "seed: 1\n", "card", {"fold": 2})
    assert checkpoint.facts_of(folder) == {"fold": 2}
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputError, match="is no model folder; it is left alone"):
        checkpoint.save(tmp_path, {}, "", "", {})
    held = checkpoint.read(folder)
    assert held.facts == {"fold": 2}
    assert held.weights["w"].dtype == torch.float32
    assert (folder / "model.safetensors").stat().st_mode & 0o044  # others may read what the umask lets them
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-3])
    with pytest.raises(ModelError, match="cannot be read"):
        checkpoint.read(folder)
