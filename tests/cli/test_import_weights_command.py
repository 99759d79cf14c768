"""dsdiff import-weights as a user runs it: from a Lightning checkpoint to the T1ce of a patient."""

import argparse
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from dsdiff.inference.model import load_model
from tests.original_checkpoints import build_original, lightning_state, save_state, write_old_config
from tests.toy_data import list_tree, write_case


@pytest.fixture
def checkpoint(tmp_path):
    """A Lightning checkpoint of a tiny UNet with averaged weights, beside the config of its training."""
    write_old_config(tmp_path / "old.yaml")
    averages = build_original("unet")
    last_step = {name: torch.zeros_like(weight) for name, weight in averages.items()}
    contents = {"state_dict": lightning_state(last_step, averages), "hyper_parameters": argparse.Namespace(lr=1e-4)}
    return save_state(tmp_path / "last.ckpt", contents)


def test_a_checkpoint_becomes_a_model_that_synthesizes(cli, checkpoint, case_folder, tmp_path):
    old, model = tmp_path / "old.yaml", tmp_path / "mine"
    code, printed = cli("import-weights", checkpoint, "--config", old, "-o", model)
    assert code == 0, printed
    for text in ("averaged weights (EMA)", "skipped, not run: argparse.Namespace", "robust z-scores", "not evaluated"):
        assert text in printed
    assert list_tree(model) == {"model.safetensors", "config.yaml", "README.md"}
    assert load_model(model, torch.device("cpu")).config.process.params["prediction"] == "v"

    code, printed = cli("synth", case_folder, "-o", tmp_path / "out", "--model", model, "--steps", 2)
    assert code == 0, printed
    provenance = json.loads((tmp_path / "out" / "P01" / "provenance.json").read_text())
    assert provenance["model"]["name"] == "mine"
    assert (tmp_path / "out" / "P01" / "P01_desc-synthT1ce_T1w.nii.gz").is_file()


def test_the_commands_of_the_documentation_run(cli, checkpoint, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text()
    with_config, without_config = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_case(tmp_path, "PATIENT")
    for command in with_config.splitlines():
        code, printed = cli(*command.removeprefix("dsdiff ").split())
        assert code == 0, printed
    assert (tmp_path / "out" / "PATIENT").is_dir()

    backbone = load_model(tmp_path / "mine", torch.device("cpu")).network.backbone
    torch.save(backbone.state_dict(), tmp_path / "ema_0.9999_100000.pt")
    command = without_config.strip().replace("-o mine", "-o other")
    code, printed = cli(*command.removeprefix("dsdiff ").split())
    assert code == 0, printed


def test_no_ema_imports_the_weights_of_the_last_step(cli, checkpoint, tmp_path):
    code, printed = cli(
        "import-weights", checkpoint, "--config", tmp_path / "old.yaml", "-o", tmp_path / "m", "--no-ema"
    )
    assert (code, "of the last step" in printed) == (0, True)
    weights = load_model(tmp_path / "m", torch.device("cpu")).network.state_dict().values()
    assert not any(weight.any() for weight in weights)


def write_hostile(path):
    class Hostile:
        def __reduce__(self):
            return eval, (f"open({str(path.parent / 'marker')!r}, 'w')",)

    torch.save({"state_dict": Hostile()}, path)


def write_truncated(path):
    path.write_bytes(path.read_bytes()[:2000])


def write_without_average(path):
    torch.save({"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(32, 4, 3, 3)}}, path)


def write_other_architecture(path):
    torch.save({"down_blocks.0.resnets.0.conv1.weight": torch.ones(1)}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_hostile, "was refused: it names builtins.eval"),
        (write_truncated, "cannot be read"),
        (write_without_average, "has no averaged weights (EMA)"),
        (write_other_architecture, "1 unexpected (down_blocks.0.resnets.0.conv1.weight)"),
    ],
)
def test_a_bad_checkpoint_is_one_line_and_writes_nothing(cli, checkpoint, tmp_path, write, message):
    write(checkpoint)
    ema = ["--ema"] if write is write_without_average else []
    code, printed = cli("import-weights", checkpoint, "--config", tmp_path / "old.yaml", "-o", tmp_path / "mine", *ema)
    assert code == 2
    assert message in printed
    assert len(printed.strip().splitlines()) == 1
    assert list_tree(tmp_path) == {"last.ckpt", "old.yaml"}


def test_a_bad_config_or_folder_is_one_line(cli, checkpoint, tmp_path):
    config = yaml.safe_load((tmp_path / "old.yaml").read_text())
    config["model"]["params"]["unet_config"]["target"] = "os.system"
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(config))
    for arguments, message in (
        (("--config", tmp_path / "bad.yaml"), "'os.system' is unknown"),
        (("--config", tmp_path / "none.yaml"), "no such config file"),
        (("training",), "is not of the form key=value"),
        ((), "number of attention heads"),
    ):
        code, printed = cli("import-weights", checkpoint, "-o", tmp_path / "mine", *arguments)
        assert (code, message in printed, len(printed.strip().splitlines())) == (2, True, 1), printed
    code, printed = cli("import-weights", checkpoint, "--config", tmp_path / "old.yaml", "-o", tmp_path)
    assert (code, "exists already and is not empty" in printed) == (2, True)
