"""Rules of CONTRIBUTING.md that a machine can check."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from dsdiff.backbones import registry
from dsdiff.config.run import dump_config, load_config, parse_config

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PUBLISHED_RESULTS = ROOT / "src" / "dsdiff" / "comparison_report" / "published.py"  # the table of the original
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
MAX_FUNCTION_LINES = 60
UNSAFE_CALLS = {"torch.load", "pickle.load", "pickle.loads", "eval", "exec", "yaml.load", "np.load", "numpy.load"}


def count_code_lines(function: ast.FunctionDef) -> int:
    """Lines of the body, without the signature and the docstring."""
    has_docstring = ast.get_docstring(function) is not None
    statements = function.body[1:] if has_docstring else function.body
    return function.end_lineno - statements[0].lineno + 1 if statements else 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short_and_documented(path):
    text = path.read_text()
    assert text.count("\n") <= 320
    tree = ast.parse(text)
    assert path.name == "__init__.py" or ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert count_code_lines(node) < MAX_FUNCTION_LINES, node.name
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_unsafe_function_is_called(path):
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert not calls & UNSAFE_CALLS


def test_no_module_is_called_utils():
    names = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    assert not names & {"utils", "misc", "common", "helpers", "util"}


def test_no_file_holds_an_absolute_path():
    pattern = re.compile(r"(?<![\w.$/])/(?:home|Users|root|mnt|data)/\w")
    for path in [*SOURCES, *CONFIGS, *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]:
        assert not pattern.search(path.read_text()), path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_builds_its_network(path):
    if path.name.startswith("smp_unet") and find_spec("segmentation_models_pytorch") is None:
        pytest.skip("needs the extra smp: make test-smp")
    with torch.device("meta"):
        assert load_config(path).build_network()


def test_backbones_never_import_one_another():
    modules = {path.split(":")[0] for path in registry.BACKBONES.values()}
    for path in (ROOT / "src" / "dsdiff" / "backbones").glob("*.py"):
        if f"dsdiff.backbones.{path.stem}" in modules:
            imported = {
                node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
            }
            assert not imported & modules, path


def test_config_names_are_unique():
    names = [path.stem for path in CONFIGS]
    assert len(names) == len(set(names))


def test_only_backbones_and_published_results_name_a_backbone():
    names = {*registry.BACKBONES, *registry.ALIASES}
    for path in SOURCES:
        if path.parent.name not in ("backbones", "originals") and path != PUBLISHED_RESULTS:
            constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not constants & names, path


def test_config_survives_a_round_trip():
    for path in CONFIGS:
        resolved = yaml.safe_load(dump_config(load_config(path)))
        assert parse_config(resolved, "again") == load_config(path)


def test_formulations_differ_only_in_process_and_sampler():
    shared_settings = load_config(ROOT / "configs" / "bridge-small.yaml").model_dump(exclude={"process", "sampler"})
    paths = [path for path in CONFIGS if path.parent.name == "formulations"]
    assert len(paths) == 6
    for path in paths:
        assert load_config(path).model_dump(exclude={"process", "sampler"}) == shared_settings, path


def test_conditionings_differ_only_in_conditioning():
    paths = [path for path in CONFIGS if path.parent.name == "conditioning"]
    assert len(paths) == 6
    configs = [load_config(path) for path in paths]
    shared_settings = configs[0].model_dump(exclude={"conditioning"})
    assert all(config.model_dump(exclude={"conditioning"}) == shared_settings for config in configs)
    assert len({config.conditioning.model_dump_json() for config in configs}) == len(paths)
