import numpy as np
import pytest
import torch

from dsdiff.config import run as configs
from dsdiff.data import build_store, splits
from dsdiff.data.store import Settings
from dsdiff.errors import ConfigError
from dsdiff.inference import model as models
from dsdiff.interpret import linear_probe
from dsdiff.training import loop
from tests.toy_data import TINY, write_case

CPU = torch.device("cpu")


def seen(tell_shared, tell_specific, patients=6):
    """Patients whose codes tell the contrast or do not."""
    rng, labels = np.random.default_rng(0), np.eye(3, 5)[None] * 6
    made = []
    for _ in range(patients):
        shared, specific = (rng.normal(size=(8, 3, 5)) + labels * tell for tell in (tell_shared, tell_specific))
        made.append((shared, specific))
    return made


@pytest.mark.parametrize(("shared", "specific"), [(0, 1), (1, 1), (0, 0), (1, 0)])
def test_a_linear_probe_finds_what_is_there(shared, specific):
    given = seen(shared, specific)
    for codes, tells in zip(zip(*given, strict=True), (shared, specific), strict=True):
        accuracy = linear_probe.linear_probe(codes)
        assert accuracy > 0.99 if tells else abs(accuracy - 1 / 3) < 0.15


def test_the_probe_is_tried_on_patients_it_did_not_see():
    """Codes that only name the patient's own arbitrary order of contrasts help nobody else."""
    rng = np.random.default_rng(1)
    codes = []
    for _ in range(40):
        own = rng.permutation(np.eye(3) * 6)
        codes.append(np.repeat(own[None], 6, 0) + 0.1 * rng.normal(size=(6, 3, 3)))
    assert abs(linear_probe.linear_probe(codes) - 1 / 3) < 0.15


def test_a_verdict_passes_when_every_check_was_tried_and_passed():
    good = linear_probe.Verdict(6, 1 / 3, 0.4, 0.95, 1.0, 0.6, 0.4)
    assert good.disentangled
    assert not linear_probe.Verdict(6, 1 / 3, 0.6, 0.95, 1.0, 0.6, 0.4).disentangled
    assert not linear_probe.Verdict(6, 1 / 3, 0.4, 0.8, 1.0, 0.6, 0.4).disentangled
    assert not linear_probe.Verdict(6, 1 / 3, 0.4, 0.95, 1.0, 0.2, 0.4).disentangled
    untried = linear_probe.Verdict(6, 1 / 3, 0.4, 0.95, None, None, None)
    assert not untried.disentangled
    assert list(untried.checks.values()) == [True, True, None, None]
    assert untried.word == "cannot tell: swaps were not tried"
    assert linear_probe.Verdict(6, 1 / 3, 0.6, 0.95, None, None, None).word == "NOT disentangled"


def test_edges_of_one_image_overlap_and_those_of_others_by_chance():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(60, 60, generator=generator) for _ in range(2))
    brain = torch.ones(60, 60, dtype=torch.bool)
    assert linear_probe.dice(one, -3 * one + 1, brain) == pytest.approx(1)  # edges have no sign
    assert linear_probe.dice(one, other, brain) == pytest.approx(linear_probe.EDGES, abs=0.05)


def test_probe_of_a_run(tmp_path, cli):
    for seed in range(4):
        write_case(tmp_path / "cohort", f"P{seed}", seed)
    splits.write(splits.make([f"P{seed}" for seed in range(4)], 2, 0), tmp_path / "split.json")
    data = TINY["data"] | {"root": str(tmp_path / "cohort"), "split": str(tmp_path / "split.json"), "fold": 0}
    conditioning = {"encoder": "shared", "disentangle": [{"target": "swap"}]}
    config = configs.parse({**TINY, "data": data, "conditioning": conditioning}, "test")
    loop.train(config, tmp_path / "run", CPU, loop.Console(quiet=True))
    code, said = cli("probe", tmp_path / "run")
    assert "error" not in said
    assert "2 patients" in said
    assert code == (0 if "\ndisentangled" in said else 1)
    assert len([line for line in said.splitlines() if line.startswith(("pass ", "FAIL "))]) == 4
    assert (tmp_path / "run" / "probe.png").stat().st_size > 5000
    assert cli("probe", tmp_path / "run", "-o", tmp_path / "probe.jpg")[0] == 2
    dealt = (tmp_path / "split.json").read_text()
    splits.write(splits.make([f"P{seed}" for seed in range(4)], 2, 5), tmp_path / "split.json")
    code, said = cli("probe", tmp_path / "run")
    assert (code, "may hold patients that it saw" in said) == (2, True), said
    (tmp_path / "split.json").write_text(dealt)
    build_store.prepare(tmp_path / "cohort", tmp_path / "store", Settings(), 1, loop.Console(quiet=True))
    written = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(written.replace(str(tmp_path / "cohort"), str(tmp_path / "store")))
    code, said = cli("probe", tmp_path / "run")
    assert (code, "was trained from a store" in said) == (2, True)


def test_what_cannot_be_probed_is_said(model_folder, tmp_path):
    from dsdiff.io import cases

    (case,) = cases.discover(write_case(tmp_path, "P0"))
    with pytest.raises(ConfigError, match="has no condition encoder"):
        linear_probe.look(case, models.load(model_folder, CPU))
    with pytest.raises(ConfigError, match="two patients or more; there is 0"):
        linear_probe.judge([])
