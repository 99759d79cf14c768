"""dsdiff export, and dsdiff synth with what it wrote."""

import json
import logging

import jaxtyping
import pytest

from tests.toy_data import tree


@pytest.fixture(autouse=True)
def untyped_and_silent(monkeypatch):
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_export_and_synth(cli, case_folder, model_folder, tmp_path):
    folder = tmp_path / "exported"
    code, said = cli("export", model_folder, folder, "--to", "torch-export", "--check", case_folder)
    assert code == 0, said
    assert "fp32: differs by 0.0e+00 of the largest value at most" in said
    code, said = cli("synth", case_folder, "--model", folder, "-o", tmp_path / "out")
    assert (code, tree(tmp_path / "out")) == (2, set())
    assert f"--allow-code {folder}" in said
    code, said = cli("synth", case_folder, "--model", folder, "--allow-code", folder, "-o", tmp_path / "out")
    assert code == 0, said
    facts = json.loads((tmp_path / "out" / "P01" / "provenance.json").read_text())
    assert facts["engine"].startswith("torch 2")
    assert (facts["precision"], facts["model"]["name"]) == ("fp32", "exported")


def test_mistakes_are_named(cli, case_folder, model_folder, tmp_path):
    code, said = cli("export", model_folder, tmp_path / "x", "--to", "onnx", "--check", tmp_path / "nobody")
    assert (code, "no such folder" in said) == (2, True)
    code, said = cli("synth", case_folder, "--model", model_folder, "--engine", "abacus", "-o", tmp_path / "out")
    assert (code, "engine 'abacus' is unknown; there are: auto, eager, fast, compiled, openvino" in said) == (2, True)
    assert not (tmp_path / "x").exists()
