"""Fixtures of the commands. Whatever trains is made once a session."""

from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import yaml

from dsdiff.io import splits
from tests.cli.compare_helpers import run_compare, run_jobs_inline, training_arguments
from tests.toy_data import TINY_CONFIG, write_case


@pytest.fixture(scope="session")
def comparison_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, a split of two folds, two candidates, and one that is broken."""
    folder = tmp_path_factory.mktemp("compare")
    names = [f"P{seed}" for seed in range(4)]
    for seed, name in enumerate(names):
        write_case(folder / "patients", name, seed)
    splits.write(splits.make(names, 2, 0), folder / "split.json")

    deeper_backbone = {**TINY_CONFIG["backbone"], "params": {**TINY_CONFIG["backbone"]["params"], "num_res_blocks": 2}}
    for name, backbone in (("reference", TINY_CONFIG["backbone"]), ("deeper", deeper_backbone)):
        config = {**TINY_CONFIG, "data": {**TINY_CONFIG["data"], "augment": False}, "backbone": backbone}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    (folder / "broken.yaml").write_text("backbone: {target: unet, params: {model_channels: 33}}\n")
    return folder


@pytest.fixture(scope="session")
def finished_comparison(comparison_inputs: Path) -> Path:
    """A finished comparison of both candidates in both arms. Tests that change it work on a copy."""
    out = comparison_inputs / "finished"
    with pytest.MonkeyPatch.context() as patch:
        run_jobs_inline(patch)
        assert run_compare(patch, *training_arguments(comparison_inputs, "reference", "deeper"), "-o", out) == 0
    return out


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """dsdiff compare in one process: its exit code and all that it printed."""
    run_jobs_inline(monkeypatch)

    def call(*arguments: object) -> tuple[int, str]:
        code, captured = run_compare(monkeypatch, *arguments), capsys.readouterr()
        return code, captured.out + captured.err

    return call


@pytest.fixture
def case_copies(comparison_inputs: Path, tmp_path: Path) -> Path:
    """A copy of the four patients, which a test may change."""
    return copytree(comparison_inputs / "patients", tmp_path / "patients")
