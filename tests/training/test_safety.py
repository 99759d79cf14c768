"""What stops a training, and what stands on the disk afterwards."""

import io
import json
import os
import resource
import shutil
import signal

import pytest
import torch
from rich.console import Console

from dsdiff.config import run as configs
from dsdiff.data import dataloader, splits
from dsdiff.data.splits import Split
from dsdiff.errors import ConfigError, ModelError, OutputError
from dsdiff.model import checkpoint
from dsdiff.system.atomic import alone
from dsdiff.system.graceful_stop import Stop
from dsdiff.training import loop, resume
from dsdiff.training.metrics_logger import LOG, read_log
from dsdiff.training.model_selection import Judge
from dsdiff.training.trainer import Diverged, Trainer
from dsdiff.training.validate import Validation
from tests.toy_data import TINY, write_case

CPU, QUIET = torch.device("cpu"), Console(quiet=True)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(2):
        write_case(folder / "patients", f"P{seed}", seed)
    splits.write(splits.make(["P0", "P1"], 2, 0), folder / "split.json")
    return folder


@pytest.fixture(scope="module")
def whole(cohort, tmp_path_factory):
    """A run that nothing stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    loop.train(config(cohort), run, CPU, QUIET)
    return run


def config(cohort, **training):
    data = {**TINY["data"], "root": str(cohort / "patients"), "split": str(cohort / "split.json"), "fold": 0}
    return configs.parse({**TINY, "data": data, "training": {**TINY["training"], **training}}, "test")


def at_step(monkeypatch, number, job):
    """Do a job before the training step of a number, once."""
    step = Trainer.train_step

    def stepping(trainer, *given):
        if trainer.step == number - 1 and not done:
            done.append(number)
            job()
        return step(trainer, *given)

    done = []
    monkeypatch.setattr(Trainer, "train_step", stepping)


def same(one, other):
    for file in ("state.safetensors", "model/model.safetensors", "best/model.safetensors"):
        (a, facts), (b, others) = (checkpoint.read_state(run / file) for run in (one, other))
        assert facts == others
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), file


def test_a_state_holds_everything_and_keeps_the_one_before(whole):
    tensors, facts = checkpoint.read_state(whole / resume.STATE)
    assert {name.split(".")[0] for name in tensors} == {"network", "ema", "optimizer"}
    assert (facts["step"], facts["validated"], facts["processes"]) == (4, 4, 1)
    assert checkpoint.read_state(checkpoint.previous(whole / resume.STATE))[1]["step"] == 2
    assert not list(whole.glob("*.partial"))


@pytest.mark.parametrize("harm", ["one bit", "torn", "emptied"])
def test_a_damaged_state_is_named_and_the_one_before_is_used(cohort, whole, tmp_path, harm):
    run, told = tmp_path / "run", Console(record=True, file=io.StringIO(), width=300)
    loop.train(config(cohort), run, CPU, QUIET)
    path = run / resume.STATE
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes({"one bit": held, "torn": held[: len(held) // 2], "emptied": b""}[harm])
    loop.train(config(cohort), run, CPU, told)
    said = told.export_text()
    assert "state.safetensors cannot be read" in said
    assert "resumed at step 2 of 4" in said
    assert path.with_suffix(".damaged").is_file()
    same(run, whole)
    assert [entry["step"] for entry in read_log(run / LOG)] == [0, 1, 2, 3, 4]


def test_where_all_states_are_damaged_nothing_is_begun_anew(cohort, tmp_path):
    loop.claim(tmp_path / "run", config(cohort))
    for path in (tmp_path / "run" / resume.STATE, checkpoint.previous(tmp_path / "run" / resume.STATE)):
        path.write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match=r"state\.safetensors and state-previous\.safetensors cannot be read"):
        loop.train(config(cohort), tmp_path / "run", CPU, QUIET)


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_saves_and_the_same_command_goes_on(cohort, whole, tmp_path, monkeypatch, number, ends):
    before = signal.getsignal(number)
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(ends) as ended:
        loop.train(config(cohort), tmp_path / "run", CPU, QUIET)
    assert number != signal.SIGTERM or ended.value.code == 0
    assert signal.getsignal(number) == before
    assert checkpoint.read_state(tmp_path / "run" / resume.STATE)[1]["step"] == 3
    assert not (tmp_path / "run" / "model").exists()
    loop.train(config(cohort), tmp_path / "run", CPU, QUIET)
    same(tmp_path / "run", whole)


def test_a_signal_during_validation_is_heeded_and_the_validation_done_later(cohort, whole, tmp_path, monkeypatch):
    told, run = Stop._note, tmp_path / "run"
    monkeypatch.setattr("dsdiff.training.validate.save_samples", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        loop.train(config(cohort), run, CPU, QUIET)
    facts = checkpoint.read_state(run / resume.STATE)[1]
    assert (facts["step"], facts["validated"], told) == (0, -1, Stop._note)
    monkeypatch.undo()
    loop.train(config(cohort), run, CPU, QUIET)
    same(run, whole)


def test_a_second_ctrl_c_stops_at_once():
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_full_disk_leaves_the_last_state_and_the_run_goes_on_later(cohort, whole, tmp_path, monkeypatch):
    """The limit is the kernel's own: no file may grow beyond it."""
    run, (soft, hard) = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    at_step(monkeypatch, 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard)))
    try:
        with pytest.raises(OutputError, match=r"File too large.*The last state stands there whole.*same command"):
            loop.train(config(cohort), run, CPU, QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.read_state(run / resume.STATE)[1]["step"] == 2
    assert not list(run.glob("*.partial"))
    loop.train(config(cohort), run, CPU, QUIET)
    same(run, whole)


def test_a_batch_that_diverges_is_named_and_kept_and_not_learnt_from(cohort, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Diverged, match=r"(loss|norm) is (nan|inf) at step \d+.*slices are of P\d") as found:
        loop.train(config(cohort, lr=1e30, clip=1e30, steps=20), run, CPU, QUIET)
    tensors, facts = checkpoint.read_state(run / "diverged-0.safetensors")
    assert set(facts["cases"].split()) == set(found.value.cases)
    assert tensors["sources"].shape == (2, 3, 3, 32, 48)
    assert f"at step {facts['step']}" in str(found.value)


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(cohort):
    trainer = Trainer(config(cohort), CPU)
    parameter = next(trainer.network.parameters())
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    before = parameter.detach().clone()
    batch = loop.draws(trainer.config, dataloader.gather(trainer.config.data, "none", QUIET)).at(0)
    with pytest.raises(Diverged, match=r"gradient's norm is nan at step 0"):
        trainer.train_step(batch, torch.Generator().manual_seed(0))
    assert torch.equal(parameter, before)


def test_a_log_that_a_kill_tore_is_read_up_to_there(tmp_path):
    (tmp_path / LOG).write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_log(tmp_path / LOG) == [{"step": 1}, {"step": 2}]


def test_a_split_that_was_dealt_again_is_refused(cohort, whole, tmp_path):
    again = shutil.copytree(whole, tmp_path / "run")
    dealt = (cohort / "split.json").read_text()
    dealt_anew = Split(tuple(reversed(splits.make(["P0", "P1"], 2, 0).folds)), 1)
    splits.write(dealt_anew, cohort / "split.json")
    try:
        with pytest.raises(ConfigError, match="it may have seen patients held out"):
            loop.train(config(cohort), again, CPU, QUIET)
    finally:
        (cohort / "split.json").write_text(dealt)
    loop.train(config(cohort), again, CPU, QUIET)


def test_a_run_goes_on_without_the_model_that_it_began_with(cohort, whole, tmp_path, monkeypatch):
    begins = config(cohort, init_from=str(shutil.copytree(whole / "model", tmp_path / "parent")))
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        loop.train(begins, tmp_path / "run", CPU, QUIET)
    (tmp_path / "parent").rename(tmp_path / "elsewhere")
    assert loop.train(begins, tmp_path / "run", CPU, QUIET).is_dir()


def test_a_network_that_makes_a_constant_image_trains_all_the_same(cohort, tmp_path):
    ddpm = {"process": {"target": "ddpm", "params": {"prediction": "x_0"}}, "sampler": {"target": "ddim"}}
    values = config(cohort, validate_volumes=1, steps=1).model_dump(mode="json", exclude={"sampler", "process"})
    run = tmp_path / "run"
    loop.train(configs.parse({**values, **ddpm}, "test"), run, CPU, QUIET)
    assert [line["step"] for line in read_log(run / LOG) if "validation" in line] == [0, 1]


def test_other_processes_than_before_are_refused(cohort, whole, tmp_path, monkeypatch):
    tensors, facts = checkpoint.read_state(whole / resume.STATE)
    loop.claim(tmp_path / "run", config(cohort))
    checkpoint.save_state(tmp_path / "run" / resume.STATE, tensors, {**facts, "processes": 2})
    with pytest.raises(ConfigError, match="trained by 2 processes, and its batches are theirs; here are 1"):
        loop.train(config(cohort), tmp_path / "run", CPU, QUIET)


def test_a_judge_that_saw_nothing_better_ends_the_run(cohort, tmp_path):
    settings = config(cohort, steps=40, patience=2, validate_every=2, lr=1e-30)
    judge = Judge(settings.training, {})
    for step, loss, best in ((0, 3.0, True), (2, 2.0, True), (4, float("nan"), False)):
        assert judge.is_best(step, Validation(loss, 0, {})) == best
    again = Judge(settings.training, judge.facts)
    assert (again.best, again.waited, again.satisfied, again.due(4), again.due(6)) == (2.0, 1, False, False, True)
    of_gain = Judge(config(cohort, judge="gain", validate_volumes=1).training, {})
    for gain, best in ((0.6, True), (1.1, True), (2.5, False), (0.95, True)):  # nearest to 1
        assert of_gain.is_best(0, Validation(0.0, 0, {"gain": gain})) == best
    unknown = Judge(config(cohort, judge="auc_tumour", validate_volumes=1, patience=1).training, {})
    assert not unknown.is_best(0, Validation(0.0, 0, {"auc_tumour": float("nan")}))
    assert not unknown.satisfied  # no tumour enhances: that says nothing of the weights
    loop.train(settings, tmp_path / "run", CPU, QUIET)  # nothing is learnt
    log = read_log(tmp_path / "run" / LOG)
    assert log[-1]["step"] < 40
    assert checkpoint.read(tmp_path / "run" / "best").facts["steps"] < log[-1]["step"]
    stamp = (tmp_path / "run" / resume.STATE).stat().st_mtime_ns
    loop.train(settings, tmp_path / "run", CPU, QUIET)
    assert (tmp_path / "run" / resume.STATE).stat().st_mtime_ns == stamp


def test_several_averages_and_whole_volumes(cohort, tmp_path):
    settings = config(cohort, ema=[0.1, 0.9], validate_volumes=1, judge="psnr", tensorboard=True)
    run = tmp_path / "run"
    loop.train(settings, run, CPU, QUIET)
    last = read_log(run / LOG)[-1]
    assert last["ema"] in (0.1, 0.9)
    assert {"psnr", "ssim", "auc_brain"} <= last["volumes"].keys()
    other = run / f"model-ema{0.1 if last['ema'] == 0.9 else 0.9}"
    a, b = (checkpoint.read(folder).weights for folder in (run / "model", other))
    assert any(not torch.equal(a[name], b[name]) for name in a)
    assert checkpoint.read(run / "model").facts["ema"] == last["ema"]
    assert list((run / "tensorboard").iterdir())
    stopped = json.loads(json.dumps(read_log(run / LOG)))
    loop.train(settings, run, CPU, QUIET)  # both averages are taken up again
    assert read_log(run / LOG) == stopped
    assert all(torch.equal(a[name], value) for name, value in checkpoint.read(run / "model").weights.items())


@pytest.mark.parametrize("name", ["model", "best", "log.jsonl", "model-ema0.9"])
def test_what_no_run_wrote_is_left_alone(cohort, tmp_path, name):
    (tmp_path / "mine" / name).mkdir(parents=True)
    (tmp_path / "mine" / name / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=f"holds {name}, not by dsdiff train; it is left alone"):
        loop.train(config(cohort), tmp_path / "mine", CPU, QUIET)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name / "thesis.txt").read_text() == "precious"


def test_a_run_that_another_process_trains_is_left_alone(cohort, tmp_path):
    with alone(tmp_path / "run"), pytest.raises(OutputError, match="is being written by another process"):
        loop.train(config(cohort), tmp_path / "run", CPU, QUIET)
    assert not (tmp_path / "run" / LOG).exists()


@pytest.mark.parametrize("which", ["patients", "phantoms"])
def test_a_run_does_not_go_on_with_other_patients(tmp_path, monkeypatch, which):
    for folder in ("patients", "phantoms"):
        for seed in range(2):
            write_case(tmp_path / folder, f"{folder}{seed}", seed)
    data = {**TINY["data"], "root": str(tmp_path / "patients"), "phantoms": str(tmp_path / "phantoms")}
    made = configs.parse({**TINY, "data": {**data, "phantom_fraction": 0.5}}, "test")
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        loop.train(made, tmp_path / "run", CPU, QUIET)
    shutil.rmtree(tmp_path / which / f"{which}1")
    write_case(tmp_path / which, f"{which}1", 7)
    with pytest.raises(ConfigError, match=rf"trained on .*{which} as it was .* cases were added, taken out or changed"):
        loop.train(made, tmp_path / "run", CPU, QUIET)


def test_patients_of_no_fold_are_named_and_phantoms_of_the_fold_refused(cohort, tmp_path):
    write_case(shutil.copytree(cohort / "patients", tmp_path / "patients"), "P9", 9)
    told = Console(record=True, file=io.StringIO(), width=300)
    data = config(cohort).data.model_copy(update={"root": tmp_path / "patients"})
    dataloader.gather(data, "none", told)
    assert "1 patients of" in (said := told.export_text())
    assert "are in no fold of" in said
    assert "trained on: P9" in said
    both = data.model_copy(update={"phantoms": tmp_path / "patients", "phantom_fraction": 0.5})
    with pytest.raises(ConfigError, match="holds cases of the fold that is held out"):
        dataloader.gather(both, "none", told)


def test_another_config_is_named_by_its_keys(cohort, whole):
    with pytest.raises(ConfigError, match=r"belongs to another config: training\.lr: \S+ there, 0\.5 here\. Give"):
        loop.train(config(cohort, lr=0.5), whole, CPU, QUIET)
