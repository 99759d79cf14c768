import numpy as np
import pytest
import torch

from dsdiff.config.run import parse_config
from dsdiff.data import build_store
from dsdiff.data.store import StoreSettings
from dsdiff.errors import ConfigError
from dsdiff.inference.model import load_model
from dsdiff.interpret import linear_probe
from dsdiff.interpret.linear_probe import ProbeResult
from dsdiff.io import splits
from dsdiff.io.cases import discover_cases
from dsdiff.training import loop
from tests.toy_data import TINY_CONFIG, write_case

CPU = torch.device("cpu")
CASE_NAMES = [f"P{seed}" for seed in range(4)]


def make_result(
    shared: float = 0.4, specific: float = 0.95, changes_contrast: float | None = 1.0, edge_dice: float | None = 0.6
) -> ProbeResult:
    """A result that passes every check unless an argument spoils it."""
    acquired_edge_dice = None if edge_dice is None else 0.4
    return ProbeResult(6, 1 / 3, shared, specific, changes_contrast, edge_dice, acquired_edge_dice)


@pytest.mark.parametrize("reveals_contrast", [False, True])
def test_linear_probe_is_accurate_if_codes_reveal_the_contrast(reveals_contrast):
    rng, contrast_signal = np.random.default_rng(0), np.eye(3, 5)[None] * 6
    codes = [rng.normal(size=(8, 3, 5)) + contrast_signal * reveals_contrast for _ in range(12)]
    accuracy = linear_probe.linear_probe(codes)
    assert accuracy > 0.99 if reveals_contrast else abs(accuracy - 1 / 3) < 0.15


def test_linear_probe_is_tested_on_other_patients_than_trained_on():
    """Codes with an arbitrary order of contrasts in each patient do not help with another patient."""
    rng = np.random.default_rng(1)
    codes = []
    for _ in range(40):
        patient_order = rng.permutation(np.eye(3) * 6)
        codes.append(np.repeat(patient_order[None], 6, 0) + 0.1 * rng.normal(size=(6, 3, 3)))
    assert abs(linear_probe.linear_probe(codes) - 1 / 3) < 0.15


def test_model_is_disentangled_if_every_check_passes():
    assert make_result().is_disentangled
    assert make_result().verdict == "disentangled"


@pytest.mark.parametrize("failure", [{"shared": 0.6}, {"specific": 0.8}, {"edge_dice": 0.2}, {"changes_contrast": 0.5}])
def test_model_is_not_disentangled_if_a_check_fails(failure):
    assert not make_result(**failure).is_disentangled
    assert make_result(**failure).verdict == "NOT disentangled"


def test_verdict_without_a_swap_decoder():
    result = make_result(changes_contrast=None, edge_dice=None)
    assert not result.is_disentangled
    assert list(result.checks.values()) == [True, True, None, None]
    assert result.verdict == "cannot tell: swaps were not tried"
    assert make_result(shared=0.6, changes_contrast=None, edge_dice=None).verdict == "NOT disentangled"


def test_edges_of_an_image_overlap_fully_and_those_of_another_by_chance():
    generator = torch.Generator().manual_seed(0)
    image, reference = (torch.randn(60, 60, generator=generator) for _ in range(2))
    brain = torch.ones(60, 60, dtype=torch.bool)
    assert linear_probe.dice(image, -3 * image + 1, brain) == pytest.approx(1)  # edges have no sign
    assert linear_probe.dice(image, reference, brain) == pytest.approx(linear_probe.EDGE_FRACTION, abs=0.05)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run with a swap decoder, next to its cases and split."""
    folder = tmp_path_factory.mktemp("probe")
    for seed, name in enumerate(CASE_NAMES):
        write_case(folder / "cases", name, seed)
    splits.write(splits.make(CASE_NAMES, 2, 0), folder / "split.json")
    data = TINY_CONFIG["data"] | {"root": str(folder / "cases"), "split": str(folder / "split.json"), "fold": 0}
    conditioning = {"encoder": "shared", "disentangle": [{"target": "swap"}]}
    config = parse_config({**TINY_CONFIG, "data": data, "conditioning": conditioning}, "test")
    loop.train(config, folder / "run", CPU)
    return folder / "run"


def test_probe_command_prints_checks_and_writes_a_figure(run_folder, cli):
    exit_code, output = cli("probe", run_folder)
    assert "error" not in output
    assert "2 patients" in output
    assert exit_code == (0 if "\ndisentangled" in output else 1)
    assert len([line for line in output.splitlines() if line.startswith(("pass ", "FAIL "))]) == 4
    assert (run_folder / "probe.png").stat().st_size > 5000


def test_probe_command_refuses_other_figure_formats(run_folder, tmp_path, cli):
    assert cli("probe", run_folder, "-o", tmp_path / "probe.jpg")[0] == 2


def test_probe_command_refuses_a_changed_split(run_folder, cli):
    split = run_folder.parent / "split.json"
    content = split.read_text()
    splits.write(splits.make(CASE_NAMES, 2, 5), split)
    exit_code, output = cli("probe", run_folder)
    split.write_text(content)
    assert exit_code == 2
    assert "may hold patients" in output


def test_probe_command_refuses_a_store(run_folder, tmp_path, cli):
    build_store.prepare_cases(run_folder.parent / "cases", tmp_path / "store", StoreSettings(), 1)
    config = run_folder / "config.yaml"
    content = config.read_text()
    config.write_text(content.replace(str(run_folder.parent / "cases"), str(tmp_path / "store")))
    exit_code, output = cli("probe", run_folder)
    config.write_text(content)
    assert exit_code == 2
    assert "was trained from a store" in output


def test_model_without_an_encoder_is_refused(model_folder, tmp_path):
    (case,) = discover_cases(write_case(tmp_path, "P0"))
    with pytest.raises(ConfigError, match="has no condition encoder"):
        linear_probe.encode_case(case, load_model(model_folder, CPU))


def test_probe_without_patients_is_refused():
    with pytest.raises(ConfigError, match="two patients or more; found 0"):
        linear_probe.evaluate_probe([])
