"""Fixtures that every test may use."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.model import checkpoint
from tests.toy_data import TINY, command, wake, write_case


@pytest.fixture
def case_folder(tmp_path: Path) -> Path:
    return write_case(tmp_path / "cohort", "P01")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose weights are awake, so that its output is not its start."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = configs.parse(TINY, "tiny")
    torch.manual_seed(3)
    network = config.build_backbone()
    wake(network)
    checkpoint.save(folder, network.state_dict(), configs.dump(config), "# tiny\n", {})
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """A dsdiff command: its exit code and all it printed."""

    def call(*arguments: object) -> tuple[int, str]:
        code, printed = command(monkeypatch, *arguments), capsys.readouterr()
        return code, printed.out + printed.err

    return call
