"""The command `dsdiff export`, and `dsdiff synth` with an exported model."""

import json
import logging

import jaxtyping
import pytest

from tests.toy_data import list_tree


@pytest.fixture(autouse=True)
def untyped_and_silent(monkeypatch):
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_exported_model_needs_allow_code_and_synthesizes(cli, case_folder, model_folder, tmp_path):
    exported, out = tmp_path / "exported", tmp_path / "out"
    code, printed = cli("export", model_folder, exported, "--to", "torch-export", "--check", case_folder)
    assert code == 0, printed
    assert "fp32: largest difference 0.0e+00 of the largest value" in printed

    code, printed = cli("synth", case_folder, "--model", exported, "-o", out)
    assert (code, list_tree(out)) == (2, set())
    assert f"--allow-code {exported}" in printed

    code, printed = cli("synth", case_folder, "--model", exported, "--allow-code", exported, "-o", out)
    assert code == 0, printed
    provenance = json.loads((out / "P01" / "provenance.json").read_text())
    assert provenance["engine"].startswith("torch 2")
    assert (provenance["precision"], provenance["model"]["name"]) == ("fp32", "exported")


def test_unknown_case_and_engine_exit_with_2(cli, case_folder, model_folder, tmp_path):
    code, printed = cli("export", model_folder, tmp_path / "x", "--to", "onnx", "--check", tmp_path / "nobody")
    assert (code, "no such folder" in printed) == (2, True)
    code, printed = cli("synth", case_folder, "--model", model_folder, "--engine", "abacus", "-o", tmp_path / "out")
    assert code == 2
    assert "engine 'abacus' is unknown; available are auto, eager, fast, compiled, openvino" in printed
    assert not (tmp_path / "x").exists()
