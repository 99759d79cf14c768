"""What stops a training, and which files it leaves."""

import os
import resource
import shutil
import signal

import pytest
import torch

from dsdiff.config.run import parse_config
from dsdiff.data import assemble_cohort
from dsdiff.errors import ConfigError, ModelError, OutputError
from dsdiff.io import splits
from dsdiff.io.splits import Split
from dsdiff.model import checkpoint
from dsdiff.system.atomic import exclusive_lock
from dsdiff.system.graceful_stop import GracefulStop
from dsdiff.training import loop
from dsdiff.training.metrics_logger import LOG_FILE, read_log
from dsdiff.training.model_selection import ModelSelector
from dsdiff.training.resume import STATE_FILE
from dsdiff.training.trainer import Trainer, TrainingDivergedError
from dsdiff.training.validate import Validation
from tests.toy_data import TINY_CONFIG, write_case

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for seed in range(2):
        write_case(folder / "patients", f"P{seed}", seed)
    splits.write(splits.make(["P0", "P1"], 2, 0), folder / "split.json")
    return folder


@pytest.fixture(scope="module")
def uninterrupted_run(cohort, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    loop.train(config(cohort), run_dir, CPU)
    return run_dir


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


def config(cohort, **training):
    data = {**TINY_CONFIG["data"], "root": str(cohort / "patients"), "split": str(cohort / "split.json"), "fold": 0}
    return parse_config({**TINY_CONFIG, "data": data, "training": {**TINY_CONFIG["training"], **training}}, "test")


def call_before_step(monkeypatch, step, job):
    """Call a job once, before a training step."""
    train_step = Trainer.train_step
    calls = []

    def train_step_after_job(trainer, *args):
        if trainer.step == step - 1 and not calls:
            calls.append(step)
            job()
        return train_step(trainer, *args)

    monkeypatch.setattr(Trainer, "train_step", train_step_after_job)


def send_signal(number):
    os.kill(os.getpid(), number)


def read_step(path):
    return checkpoint.read_state(path)[1]["step"]


def assert_same_files(run_dir, other_run_dir):
    for file in (STATE_FILE, "model/model.safetensors", "best/model.safetensors"):
        tensors, fields = checkpoint.read_state(run_dir / file)
        other_tensors, other_fields = checkpoint.read_state(other_run_dir / file)
        assert fields == other_fields
        assert tensors.keys() == other_tensors.keys()
        assert all(torch.equal(tensors[name], other_tensors[name]) for name in tensors), file


def test_a_state_is_complete_and_the_previous_one_is_kept(uninterrupted_run):
    tensors, fields = checkpoint.read_state(uninterrupted_run / STATE_FILE)
    assert {name.split(".")[0] for name in tensors} == {"network", "ema0", "optimizer"}
    assert (fields["step"], fields["selection"]["last_step"], fields["processes"]) == (4, 4, 1)
    assert read_step(checkpoint.previous_path(uninterrupted_run / STATE_FILE)) == 2
    assert not list(uninterrupted_run.glob("*.partial"))


@pytest.mark.parametrize("damage", ["one bit", "truncated", "empty", "other fields"])
def test_a_damaged_state_is_reported_and_the_previous_one_is_used(cohort, uninterrupted_run, run_dir, damage, caplog):
    loop.train(config(cohort), run_dir, CPU)
    path = run_dir / STATE_FILE
    if damage == "other fields":
        tensors, _ = checkpoint.read_state(path)
        previous = checkpoint.previous_path(path).read_bytes()
        checkpoint.save_state(path, tensors, {"steps": 4})
        checkpoint.previous_path(path).write_bytes(previous)
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes({"one bit": content, "truncated": content[: len(content) // 2], "empty": b""}[damage])

    with caplog.at_level("INFO", logger="dsdiff"):
        loop.train(config(cohort), run_dir, CPU)
    reasons = ("the training state is damaged", "state.safetensors cannot be read", "state.safetensors is empty")
    assert any(reason in caplog.text for reason in reasons)
    assert "It is renamed to state.damaged." in caplog.text
    assert "resumed at step 2 of 4" in caplog.text
    assert path.with_suffix(".damaged").is_file()
    assert_same_files(run_dir, uninterrupted_run)
    assert [entry["step"] for entry in read_log(run_dir / LOG_FILE)] == [0, 1, 2, 3, 4]


def test_a_run_whose_states_are_all_damaged_does_not_start_again(cohort, run_dir):
    loop.init_run_dir(run_dir, config(cohort))
    for path in (run_dir / STATE_FILE, checkpoint.previous_path(run_dir / STATE_FILE)):
        path.write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match=r"state\.safetensors and state-previous\.safetensors cannot be read"):
        loop.train(config(cohort), run_dir, CPU)


@pytest.mark.parametrize(
    ("number", "exit_exception"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_saves_the_state_and_the_same_command_resumes(
    cohort, uninterrupted_run, run_dir, monkeypatch, number, exit_exception
):
    handler = signal.getsignal(number)
    call_before_step(monkeypatch, 3, lambda: send_signal(number))
    with pytest.raises(exit_exception) as raised:
        loop.train(config(cohort), run_dir, CPU)
    assert number != signal.SIGTERM or raised.value.code == 0
    assert signal.getsignal(number) == handler
    assert read_step(run_dir / STATE_FILE) == 3
    assert not (run_dir / "model").exists()

    loop.train(config(cohort), run_dir, CPU)
    assert_same_files(run_dir, uninterrupted_run)


def test_a_signal_during_validation_postpones_the_validation(cohort, uninterrupted_run, run_dir, monkeypatch):
    monkeypatch.setattr("dsdiff.training.validate.save_sample_grid", lambda *_: send_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        loop.train(config(cohort), run_dir, CPU)
    _, fields = checkpoint.read_state(run_dir / STATE_FILE)
    assert (fields["step"], fields["selection"]["last_step"]) == (0, -1)

    monkeypatch.undo()
    loop.train(config(cohort), run_dir, CPU)
    assert_same_files(run_dir, uninterrupted_run)


def test_a_second_ctrl_c_interrupts_at_once():
    with GracefulStop() as stop:
        send_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send_signal(signal.SIGINT)


def test_a_full_disk_keeps_the_last_state_and_the_run_resumes_later(cohort, uninterrupted_run, run_dir, monkeypatch):
    """The kernel's own limit: no file may grow beyond it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    call_before_step(monkeypatch, 3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard)))
    try:
        with pytest.raises(OutputError, match=r"File too large.*last training state is complete.*same command resumes"):
            loop.train(config(cohort), run_dir, CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_step(run_dir / STATE_FILE) == 2
    assert not list(run_dir.glob("*.partial"))

    loop.train(config(cohort), run_dir, CPU)
    assert_same_files(run_dir, uninterrupted_run)


def test_a_batch_that_diverges_is_written_and_not_trained_on(cohort, run_dir):
    with pytest.raises(
        TrainingDivergedError, match=r"(loss|norm) is (nan|inf) at step \d+.*slices are from P\d"
    ) as raised:
        loop.train(config(cohort, lr=1e30, clip=1e30, steps=20), run_dir, CPU)
    tensors, fields = checkpoint.read_state(run_dir / "diverged-0.safetensors")
    assert set(fields["cases"]) == set(raised.value.cases)
    assert tensors["sources"].shape == (2, 3, 3, 32, 48)
    assert f"at step {fields['step']}" in str(raised.value)


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(cohort):
    trainer = Trainer(config(cohort), CPU)
    parameter = next(trainer.network.parameters())
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    initial_weights = parameter.detach().clone()
    data = assemble_cohort.assemble_cohort(trainer.config.data, "none")
    batch = loop.training_batches(trainer.config, data).load_step(0)
    with pytest.raises(TrainingDivergedError, match=r"gradient norm is nan at step 0"):
        trainer.train_step(batch, torch.Generator().manual_seed(0))
    assert torch.equal(parameter, initial_weights)


def test_a_truncated_log_is_read_up_to_its_last_complete_line(tmp_path):
    (tmp_path / LOG_FILE).write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_log(tmp_path / LOG_FILE) == [{"step": 1}, {"step": 2}]


def test_a_run_does_not_resume_with_another_split(cohort, uninterrupted_run, run_dir):
    shutil.copytree(uninterrupted_run, run_dir)
    split_text = (cohort / "split.json").read_text()
    other_split = Split(tuple(reversed(splits.make(["P0", "P1"], 2, 0).folds)), 1)
    splits.write(other_split, cohort / "split.json")
    try:
        with pytest.raises(ConfigError, match="may hold out patients of its training set"):
            loop.train(config(cohort), run_dir, CPU)
    finally:
        (cohort / "split.json").write_text(split_text)
    loop.train(config(cohort), run_dir, CPU)


def test_a_run_resumes_without_the_model_that_it_started_from(
    cohort, uninterrupted_run, tmp_path, run_dir, monkeypatch
):
    parent = shutil.copytree(uninterrupted_run / "model", tmp_path / "parent")
    settings = config(cohort, init_from=str(parent))
    call_before_step(monkeypatch, 3, lambda: send_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        loop.train(settings, run_dir, CPU)
    parent.rename(tmp_path / "elsewhere")
    model = loop.train(settings, run_dir, CPU)
    assert len(checkpoint.read_metadata(model).lineage) == 1


def test_a_network_with_a_constant_output_can_be_validated(cohort, run_dir):
    ddpm = {"process": {"target": "ddpm", "params": {"prediction": "x_0"}}, "sampler": {"target": "ddim"}}
    values = config(cohort, validate_volumes=1, steps=1).model_dump(mode="json", exclude={"sampler", "process"})
    loop.train(parse_config({**values, **ddpm}, "test"), run_dir, CPU)
    assert [entry["step"] for entry in read_log(run_dir / LOG_FILE) if "validation" in entry] == [0, 1]


def test_a_run_does_not_resume_with_another_number_of_processes(cohort, uninterrupted_run, run_dir):
    tensors, fields = checkpoint.read_state(uninterrupted_run / STATE_FILE)
    loop.init_run_dir(run_dir, config(cohort))
    checkpoint.save_state(run_dir / STATE_FILE, tensors, {**fields, "processes": 2})
    with pytest.raises(ConfigError, match="trained by 2 processes, and this is a run of 1, whose batches differ"):
        loop.train(config(cohort), run_dir, CPU)


def test_the_selector_keeps_the_best_validation(cohort):
    selector = ModelSelector(config(cohort, steps=40, patience=2, validate_every=2).training)
    for step, loss, is_best in ((0, 3.0, True), (2, 2.0, True), (4, float("nan"), False)):
        assert selector.update(step, Validation(loss, 0, {})) == is_best
    restored = ModelSelector(selector.settings, selector.state)
    assert (restored.best_loss, restored.n_stale, restored.patience_exhausted) == (2.0, 1, False)
    assert not restored.should_validate(4)
    assert restored.should_validate(6)


def test_the_best_enhancement_recovery_is_the_nearest_to_one(cohort):
    settings = config(cohort, select_by="enhancement_recovery", validate_volumes=1).training
    selector = ModelSelector(settings)
    for recovery, is_best in ((0.6, True), (1.1, True), (2.5, False), (0.95, True)):
        assert selector.update(0, Validation(0.0, 0, {"enhancement_recovery": recovery})) == is_best


def test_a_validation_without_the_score_does_not_count(cohort):
    selector = ModelSelector(config(cohort, select_by="auc_tumour", validate_volumes=1, patience=1).training)
    assert not selector.update(0, Validation(0.0, 0, {"auc_tumour": float("nan")}))
    assert not selector.patience_exhausted


def test_a_run_without_improvement_ends_early(cohort, run_dir):
    settings = config(cohort, steps=40, patience=2, validate_every=2, lr=1e-30)
    loop.train(settings, run_dir, CPU)
    log = read_log(run_dir / LOG_FILE)
    assert log[-1]["step"] < 40
    assert checkpoint.read_metadata(run_dir / "best").steps < log[-1]["step"]

    time_stamp = (run_dir / STATE_FILE).stat().st_mtime_ns
    loop.train(settings, run_dir, CPU)
    assert (run_dir / STATE_FILE).stat().st_mtime_ns == time_stamp


def test_several_averages_and_full_volumes(cohort, run_dir):
    settings = config(cohort, ema=[0.1, 0.9], validate_volumes=1, select_by="psnr", tensorboard=True)
    loop.train(settings, run_dir, CPU)
    log = read_log(run_dir / LOG_FILE)
    best_decay = log[-1]["ema"]
    assert best_decay in (0.1, 0.9)
    assert {"psnr", "ssim", "auc_brain"} <= log[-1]["volumes"].keys()

    model = checkpoint.read_model(run_dir / "model")
    other_model = checkpoint.read_model(run_dir / f"model-ema{0.1 if best_decay == 0.9 else 0.9}")
    assert any(not torch.equal(model.weights[name], other_model.weights[name]) for name in model.weights)
    assert model.metadata.ema_decay == best_decay
    assert list((run_dir / "tensorboard").iterdir())

    loop.train(settings, run_dir, CPU)  # resumes with both averages
    weights_again = checkpoint.read_model(run_dir / "model").weights
    assert read_log(run_dir / LOG_FILE) == log
    assert all(torch.equal(model.weights[name], weights_again[name]) for name in weights_again)


@pytest.mark.parametrize("name", ["model", "best", "log.jsonl", "model-ema0.9"])
def test_files_of_others_are_not_replaced(cohort, run_dir, name):
    (run_dir / name).mkdir(parents=True)
    (run_dir / name / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=f"holds {name}, which dsdiff train did not write; nothing was changed"):
        loop.train(config(cohort), run_dir, CPU)
    assert [path.name for path in run_dir.iterdir()] == [name]
    assert (run_dir / name / "thesis.txt").read_text() == "precious"


def test_a_run_that_another_process_trains_is_not_touched(cohort, run_dir):
    with exclusive_lock(run_dir), pytest.raises(OutputError, match="another process"):
        loop.train(config(cohort), run_dir, CPU)
    assert not (run_dir / LOG_FILE).exists()


@pytest.mark.parametrize("changed_folder", ["patients", "phantoms"])
def test_a_run_does_not_resume_with_other_patients(tmp_path, run_dir, monkeypatch, changed_folder):
    for folder in ("patients", "phantoms"):
        for seed in range(2):
            write_case(tmp_path / folder, f"{folder}{seed}", seed)
    data = {**TINY_CONFIG["data"], "root": str(tmp_path / "patients"), "phantoms": str(tmp_path / "phantoms")}
    settings = parse_config({**TINY_CONFIG, "data": {**data, "phantom_fraction": 0.5}}, "test")
    call_before_step(monkeypatch, 3, lambda: send_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        loop.train(settings, run_dir, CPU)

    case_name = f"{changed_folder}1"
    shutil.rmtree(tmp_path / changed_folder / case_name)
    write_case(tmp_path / changed_folder, case_name, 7)
    with pytest.raises(
        ConfigError, match=rf"trained on .*{changed_folder} with hash .* cases were added, removed or changed"
    ):
        loop.train(settings, run_dir, CPU)


def test_patients_outside_all_folds_are_reported_and_phantoms_of_the_fold_rejected(cohort, tmp_path, caplog):
    write_case(shutil.copytree(cohort / "patients", tmp_path / "patients"), "P9", 9)
    data = config(cohort).data.model_copy(update={"root": tmp_path / "patients"})
    with caplog.at_level("INFO", logger="dsdiff"):
        assemble_cohort.assemble_cohort(data, "none")
    assert "1 patients of" in caplog.text
    assert "are in no fold of" in caplog.text
    assert "training uses them: P9" in caplog.text

    data_with_phantoms = data.model_copy(update={"phantoms": tmp_path / "patients", "phantom_fraction": 0.5})
    with pytest.raises(ConfigError, match="holds cases of the held-out fold"):
        assemble_cohort.assemble_cohort(data_with_phantoms, "none")


def test_another_config_is_reported_by_its_keys(cohort, uninterrupted_run):
    with pytest.raises(ConfigError, match=r"belongs to another config: training\.lr: \S+ there, 0\.5 here\. Give"):
        loop.train(config(cohort, lr=0.5), uninterrupted_run, CPU)
