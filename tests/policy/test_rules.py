"""Rules of STYLE.md that a machine can check."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from dsdiff.backbones import registry
from dsdiff.config import run as configs

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
UNSAFE = {"torch.load", "pickle.load", "pickle.loads", "eval", "exec", "yaml.load", "np.load", "numpy.load"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path):
    text = path.read_text()
    assert text.count("\n") <= 320
    tree = ast.parse(text)
    assert path.name == "__init__.py" or ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 70, node.name
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unsafe_is_called(path):
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert not calls & UNSAFE


def test_no_room_is_named_for_nothing():
    names = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    assert not names & {"utils", "misc", "common", "helpers", "util"}


def test_no_absolute_path_stands_in_the_tree():
    pattern = re.compile(r"(?<![\w.$/])/(?:home|Users|root|mnt|data)/\w")
    for path in [*SOURCES, *CONFIGS, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]:
        assert not pattern.search(path.read_text()), path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_builds_its_network(path):
    if path.name.startswith("smp_unet") and find_spec("segmentation_models_pytorch") is None:
        pytest.skip("needs the extra smp: make test-smp")
    with torch.device("meta"):
        assert configs.load(path).build_network()


def test_backbones_never_import_one_another():
    modules = {path.split(":")[0] for path in registry.BACKBONES.values()}
    for path in (ROOT / "src" / "dsdiff" / "backbones").glob("*.py"):
        if f"dsdiff.backbones.{path.stem}" in modules:
            imported = {
                node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
            }
            assert not imported & modules, path


def test_a_config_goes_by_one_name():
    names = [path.stem for path in CONFIGS]
    assert len(names) == len(set(names))


def test_no_room_but_backbones_knows_a_backbone_by_name():
    names = {*registry.BACKBONES, *registry.ALIASES}
    for path in SOURCES:
        if path.parent.name != "backbones":
            words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not words & names, path


def test_what_a_config_says_is_what_it_resolves_to():
    for path in CONFIGS:
        resolved = yaml.safe_load(configs.dump(configs.load(path)))
        assert configs.parse(resolved, "again") == configs.load(path)


def test_formulations_differ_in_process_and_sampler_alone():
    same = configs.load(ROOT / "configs" / "bridge-small.yaml").model_dump(exclude={"process", "sampler"})
    paths = [path for path in CONFIGS if path.parent.name == "formulations"]
    assert len(paths) == 6
    for path in paths:
        assert configs.load(path).model_dump(exclude={"process", "sampler"}) == same, path


def test_conditionings_differ_in_conditioning_alone():
    paths = [path for path in CONFIGS if path.parent.name == "conditioning"]
    assert len(paths) == 6
    rest = [configs.load(path).model_dump(exclude={"conditioning"}) for path in paths]
    assert all(one == rest[0] for one in rest)
    assert len({configs.load(path).conditioning.model_dump_json() for path in paths}) == len(paths)
