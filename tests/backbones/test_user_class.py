"""A class of the user beside a config: it trains, samples, and its mistakes are reported as such."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from dsdiff.backbones import registry
from dsdiff.errors import ConfigError
from tests.toy_data import TINY_CONFIG

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-a-backbone.md"
TINY_HYBRID = {"widths": [16, 32], "depth": 1, "num_heads": 2}
WRONG_CLASSES = {
    "def forward(self, x): return x": "has forward(x); dsdiff calls a network as forward(x, t, c)",
    "def forward(self, x, t, c, y): return x": "has forward(x, t, c, y); dsdiff calls",
    "def forward(self, x, t, c): return self.layer(c)": "Own raises RuntimeError (Given groups=1",
    "def forward(self, x, t, c): return (x, t)": "Own returns a tuple; an image (b, c, h, w) is needed",
    "def forward(self, x, t, c): return x[:, :, 1:]": "the backbone returns (2, 1, 31, 48) for an x_t of (2, 1, 32, 48)",
    "def forward(self, x_t, t, cond): return x_t": "Own returns a Tensor; a forward that takes cond, a Condition, must",
    "def __init__(self, width): super().__init__()": "Own does not accept them",
}


def read_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def import_folder(monkeypatch, tmp_path):
    """A folder for configs and modules. What the test adds to the registry and to Python is removed after it."""
    monkeypatch.setattr(registry, "BACKBONES", dict(registry.BACKBONES))
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    folder = tmp_path / "project"
    folder.mkdir()
    yield folder
    for name in set(sys.modules) - modules:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def read_hybrid():
    (code,) = [block for block in read_blocks("python") if "class HybridBackbone" in block]
    return code


def write_config(folder, backbone, name="mine.yaml"):
    file = folder / name
    file.write_text(yaml.safe_dump(TINY_CONFIG | {"backbone": backbone}))
    return file


def test_the_hybrid_of_the_page_trains_and_synthesizes(cli, import_folder, case_folder, tmp_path):
    (import_folder / "hybrid_unet.py").write_text(read_hybrid())
    (backbone,) = [block["backbone"] for block in map(yaml.safe_load, read_blocks("yaml")) if "hybrid" in str(block)]
    config = write_config(import_folder, backbone | {"params": TINY_HYBRID})
    arguments = ("train", config, f"data.root={case_folder.parent}", "-o", tmp_path / "run", "--device", "cpu")
    code, printed = cli(*arguments)
    assert code == 2
    assert "--allow-code" in printed

    code, printed = cli(*arguments, "--allow-code")
    assert code == 0, printed
    assert f"dsdiff synth CASE --model {tmp_path / 'run' / 'model'} --allow-code {config}" in printed.replace("\n", " ")
    model = ("--model", tmp_path / "run" / "model", "--device", "cpu")
    code, printed = cli("synth", case_folder, *model, "--allow-code", config, "-o", tmp_path / "out")
    assert code == 0, printed
    assert list((tmp_path / "out").rglob("*.nii.gz"))


def test_a_module_beside_the_file_of_an_override_is_found(cli, import_folder, tmp_path):
    package = import_folder / "networks"
    package.mkdir()
    (package / "hybrid.py").write_text(read_hybrid())
    block = {"target": "networks.hybrid.HybridBackbone", "params": TINY_HYBRID}
    file = write_config(import_folder, block)
    file.write_text(yaml.safe_dump({"backbone": block}))
    code, printed = cli("train", "bridge-small", f"backbone={file}", "--allow-code", "--dry-run", "--device", "cpu")
    assert code == 0, printed
    assert "M parameters" in printed


@pytest.mark.parametrize("body", WRONG_CLASSES)
def test_mistakes_in_a_class_are_one_line_and_exit_code_2(cli, import_folder, case_folder, tmp_path, body):
    code = f"from torch import nn\n\n\nclass Own(nn.Conv2d):\n    multiple = 1\n\n    {body}\n"
    code = (
        code.replace("nn.Conv2d", "nn.Module") if "__init__" in body else code.replace("self.layer", "super().forward")
    )
    (import_folder / "own_network.py").write_text(code)
    params = {} if "__init__" in body else {"out_channels": 1, "kernel_size": 1}
    config = write_config(import_folder, {"target": "own_network.Own", "params": params})
    arguments = (f"data.root={case_folder.parent}", "-o", tmp_path / "run", "--device", "cpu", "--allow-code")
    code, printed = cli("train", config, *arguments)
    assert code == 2, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("error:")]
    assert WRONG_CLASSES[body] in line


def test_a_module_with_the_name_of_an_installed_one_raises_an_error(import_folder):
    (import_folder / "einops.py").write_text("")
    with pytest.raises(
        ConfigError, match=r"einops\.py has the name of another module, .*einops/__init__\.py; rename it"
    ):
        registry.trust_class("einops.Network", [import_folder])
    assert sys.path[-1] == str(import_folder)


def test_an_import_that_fails_is_reported(import_folder):
    (import_folder / "broken_network.py").write_text("import a_missing_package\n")
    registry.trust_class("broken_network.Own", [import_folder])
    with pytest.raises(
        ConfigError, match=r"cannot be imported: ModuleNotFoundError: No module named 'a_missing_package'"
    ):
        registry.lookup("broken_network.Own")
