from pathlib import Path

import pytest

from dsdiff.config.import_config import import_config
from dsdiff.config.run import dump_config, load_config
from dsdiff.errors import ConfigError


def write_config(folder, content):
    file = folder / "run.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("training:\n\tsteps: 3\n", "line 2, column 1: a tab; YAML is indented by spaces"),
        ("training:\n  lr: 1e-3\n  \tsteps: 3\n", "line 3, column 3: a tab"),
        ("seed: 1\ntraining:\n  steps: 3\n  steps: 4\n", "line 4, column 3: found duplicate key steps; .* line 3"),
        ("data: {fold: 1}\nseed: 1\ndata: {}\n", "line 3, column 1: found duplicate key data"),
        ("training:\n  steps: 3\n    lr: 1e-3\n", "line 3, column 7: .*mapping values are not allowed"),
        ("training:\n  steps: 3\n lr: 1e-3\n", "line 3, column 2: "),
        ("training:\n\u00a0 steps: 3\n", r"line 2, column 1: a blank of the kind U\+00A0"),
        ("seed: 1\n# Größe\n".encode("latin-1"), "line 2 is not UTF-8 text"),
        ("just words\n", "just words: there is no such key"),
        ("training:\nseed: 1\n", "training: the block is empty"),
        ("training: {steps: '${training.stepz}'}", "training.steps refers to something that does not exist"),
        ("data: {root: '${oc.env:NO_SUCH_VARIABLE}'}", "data.root refers .*NO_SUCH_VARIABLE"),
        ("data: {root: '${now:%Y}'}", "data.root refers .*now"),
        ("data:\n  root: ???\n", r"data.root is \?\?\?, a value to be filled in"),
        ("data: {root: 2024}", "data.root: a path is needed, YAML reads 2024; put the path in quotes"),
    ],
)
def test_a_wrong_file_is_described_by_line_or_key(tmp_path, content, message):
    file = write_config(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(file)
    assert str(error.value).startswith(str(file))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_and_line_ends_of_windows(tmp_path, encoding):
    config = load_config(write_config(tmp_path, "training:\r\n  lr: 1e-4\r\n".encode(encoding)))
    assert config.training.lr == 1e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lr=[", r"override 'training.lr=\[' cannot be read: while parsing a flow node"),
        ("data.root=@cohort", "override 'data.root=@cohort' cannot be read: .*quote a text"),
        ("training.lr=1,5", "override training.lr=1,5: training.lr: Input should be a valid number"),
        ("training.lrr=3", "override training.lrr=3: training.lrr: there is no such key"),
        ("training=3", "override training=3: training: "),
        ("loss.weight=-1", "override loss.weight=-1: loss.0.weight: "),
        ("training.steps=${seedd}", "override training.steps=.*: training.steps refers"),
        ("data.root=/a: b", "override data.root=/a: b: data.root: a path is needed"),
        ("=3", "override '=3' is not of the form key=value"),
        ("training..steps=3", "override 'training..steps=3' is not of the form"),
    ],
)
def test_a_fault_of_an_override_is_not_blamed_on_the_file(tmp_path, override, message):
    file = write_config(tmp_path, "seed: 1\nloss: {target: l1}\n")
    with pytest.raises(ConfigError, match=message) as error:
        load_config(file, ("training.warmup=1", override))
    assert str(file) not in str(error.value)
    assert "warmup" not in str(error.value)


def test_a_fault_of_file_and_override_names_both(tmp_path):
    file = write_config(tmp_path, "data: {split: a.json}\ntraining: {steps: 0}\n")
    with pytest.raises(ConfigError, match=r"run.yaml: training.steps: ") as error:
        load_config(file, ("seed=3", "data.fold=0"))
    assert "override" not in str(error.value)
    with pytest.raises(ConfigError, match=r"run.yaml and override data.split=null: data: split and fold go together"):
        load_config(write_config(tmp_path, "data: {split: a.json, fold: 0}"), ("data.split=null",))


def test_words_for_nothing_and_paths_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COHORTS", "/cohorts")
    file = write_config(
        tmp_path,
        "data: {root: ~/cohort, phantoms: null, split: None}\n"
        "training: {patience: None, init_from: '${data.root}/model', steps: 9, warmup: '${training.steps}'}\n",
    )
    config = load_config(file)
    assert (config.data.root, config.data.split) == (tmp_path / "cohort", None)
    assert (config.training.patience, config.training.warmup) == (None, 9)
    assert config.training.init_from == tmp_path / "cohort" / "model"

    overridden = load_config(file, ("data.root=${oc.env:COHORTS}/a", "training.init_from=None", "data.phantoms=~"))
    assert (overridden.data.root, overridden.training.init_from) == (Path("/cohorts/a"), None)
    assert load_config(write_config(tmp_path, dump_config(config))) == config


def test_configs_of_other_programs_keep_their_interpolations(tmp_path):
    file = write_config(tmp_path, "model: {target: a.B, params: {ckpt_path: '${oc.env:NO_SUCH_VARIABLE}'}}\n")
    with pytest.raises(ConfigError) as error:
        import_config(file)
    assert "NO_SUCH_VARIABLE" not in str(error.value)


def test_dry_run_names_the_paths_that_do_not_exist(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, "backbone: {target: unet, params: {model_channels: 32, channel_mult: [1, 1]}}\n")
    paths = ("data.root=cohort", "data.phantoms=nowhere", "data.split=split.json", "data.fold=0")
    code, printed = cli("train", config, *paths, "data.phantom_fraction=0.5", "training.init_from=model", "--dry-run")
    assert code == 2
    for message in ("data.root: cohort: no such folder", "data.phantoms: nowhere: no such", "data.split: split.json",
                    "training.init_from: model 'model' is unknown"):  # fmt: skip
        assert message in printed

    (tmp_path / "model").mkdir()
    code, printed = cli("train", config, "training.init_from=model", "--dry-run")
    assert (code, "model is not a model folder: it has no" in printed) == (2, True)
    code, printed = cli("train", config, "--dry-run")
    assert (code, "data.root and data.phantoms are not set" in printed) == (0, True)
