"""Fixtures that every test may use."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dsdiff.config.run import dump_config, parse_config
from dsdiff.model import checkpoint
from dsdiff.model.metadata import ModelMetadata
from tests.toy_data import TINY_CONFIG, randomize_zeros, run_command, write_case


@pytest.fixture
def case_folder(tmp_path: Path) -> Path:
    return write_case(tmp_path / "cohort", "P01")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights. Its zero parameters get values too, so that its output differs from T1."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = parse_config(TINY_CONFIG, "tiny")
    torch.manual_seed(3)
    network = config.build_backbone()
    randomize_zeros(network)
    checkpoint.save_model(folder, network.state_dict(), dump_config(config), "# tiny\n", ModelMetadata())
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs a dsdiff command; returns its exit code, and the text of stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        code = run_command(monkeypatch, *arguments)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call
