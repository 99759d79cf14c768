"""The whole of dsdiff compare on tiny networks and patients; jobs run in this process, so that they can be stopped."""

import json
import sys

import pytest
import yaml
from conftest import TINY, write_case

from dsdiff.benchmark import budget, plan, profile, work
from dsdiff.benchmark.profile import Measured
from dsdiff.cli.main import run
from dsdiff.data import splits
from dsdiff.training import loop

TIMES = {"volume", "hours", "pace", "command"}  # what differs from one execution to the next


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    names = [f"P{seed}" for seed in range(4)]
    for seed, name in enumerate(names):
        write_case(folder / "patients", name, seed)
    splits.write(splits.make(names, 2, 0), folder / "split.json")
    narrow = {**TINY["backbone"], "params": {**TINY["backbone"]["params"], "num_res_blocks": 2}}
    for name, backbone in (("reference", TINY["backbone"]), ("deeper", narrow)):
        data = {**TINY["data"], "augment": False}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**TINY, "data": data, "backbone": backbone}))
    (folder / "broken.yaml").write_text("backbone: {target: unet, params: {model_channels: 33}}\n")
    return folder


@pytest.fixture
def cli(capsys, monkeypatch):
    """Exit code and messages of dsdiff compare, in one process."""
    for module in (work, budget):
        monkeypatch.setattr(module, "apart", lambda job, *args, threads=1: job(*args))
    monkeypatch.setattr(profile, "measure", lambda *_: Measured(0.5, 0.25, None))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dsdiff", "compare", *map(str, arguments), "--device", "cpu", "--jobs", "1"])
        with pytest.raises(SystemExit) as ended:
            run()
        printed = capsys.readouterr()
        return ended.value.code, printed.out + printed.err

    return call


def asked(cohort, *names, seeds=2):
    files = [cohort / f"{name}.yaml" for name in names]
    return (*files, "--data", cohort / "patients", "--split", cohort / "split.json", "--steps", 4, "--seeds", seeds)


def lasting(value):
    """Results without what is timed."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [lasting(item) for item in value]
    return value


def results(out):
    return json.loads((out / "results.json").read_text())


@pytest.fixture
def whole(cohort, cli, tmp_path):
    """A comparison that ran to its end."""
    code, said = cli(*asked(cohort, "reference", "deeper"), "-o", tmp_path / "whole")
    assert code == 0, said
    return tmp_path / "whole", said


def test_a_comparison_stopped_and_gone_on_with_is_the_one_that_never_stopped(cohort, cli, whole, tmp_path, monkeypatch):
    step, count, out = loop.Trainer.train_step, 0, tmp_path / "stopped"

    def stopping(self, *args):
        nonlocal count
        count += 1
        if count == 2 * 7 + 4 * 4 + 3:  # after two calibrations and the regression's, in the fifth training
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(loop.Trainer, "train_step", stopping)
    command = (*asked(cohort, "reference", "deeper"), "-o", out)
    assert cli(*command)[0] == 130
    assert not (out / "table.md").exists()
    done = {path: path.stat().st_mtime_ns for path in out.rglob("scores.json")}
    assert done
    monkeypatch.setattr(loop.Trainer, "train_step", step)
    assert cli(*command)[0] == 0
    assert lasting(results(out)) == lasting(results(whole[0]))
    assert done == {path: path.stat().st_mtime_ns for path in done}
    table = (out / "table.md").read_text()
    assert cli(*command)[1].startswith(table)  # nothing is left to do: the same text again


def test_both_arms_have_every_method_and_the_baselines(whole):
    out, said = whole
    found = results(out)
    assert found["patients"] == ["P0", "P1", "P2", "P3"]
    equal, gmacs = found["arms"]
    names = ["reference", plan.REGRESSION, "deeper", "copy of T1", "linear regression"]
    assert [row["name"] for row in equal["rows"]] == [row["name"] for row in gmacs["rows"]] == names
    assert [row["steps"] for row in equal["rows"][:3]] == [4, 4, 4]
    cost = [row["cost"]["macs"] for row in gmacs["rows"][:3]]
    assert [row["steps"] for row in gmacs["rows"][:3]] == [4, 4, round(4 * cost[0] / cost[2])]
    assert [len(row["scores"]["psnr_brain"]) for row in equal["rows"]] == [2, 2, 2, 1, 1]
    copy = equal["rows"][3]
    assert set(copy["scores"]["gain"][0]) == {0.0}
    assert {one["method"] for one in equal["judgements"]} == set(names[1:])
    assert all(one["verdict"]["sentence"] in said for arm in found["arms"] for one in arm["judgements"])
    assert "27.70" in said  # what the original printed of a UNet
    page = (out / "report.html").read_text()
    assert "Every patient" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://creativecommons", "")
    assert (out / "front.svg").read_text().count("reference") == (out / "front.svg").read_text().count("deeper")
    assert (out / "front.png").stat().st_size > 10_000


def test_a_bad_candidate_does_not_lose_the_others_work(cohort, cli, tmp_path, monkeypatch):
    step = loop.Trainer.train_step

    def failing(self, *args):
        bad = self.config.backbone.params["num_res_blocks"] == 2 and self.config.seed == 2
        return float("nan") if bad else step(self, *args)

    monkeypatch.setattr(loop.Trainer, "train_step", failing)
    names = ("reference", "deeper", "broken")
    arguments = (*asked(cohort, *names), "--arm", "parameters", "--recipe", cohort / "reference.yaml")
    code, said = cli(*arguments, "-o", tmp_path / "out")
    assert code == 1
    assert "Not in it: deeper: 2 of 4 runs failed: the loss is nan" in said
    assert "Left out: broken: " in said
    (arm,) = results(tmp_path / "out")["arms"]
    assert [row["name"] for row in arm["rows"]] == ["reference", plan.REGRESSION, "copy of T1", "linear regression"]
    monkeypatch.setattr(loop.Trainer, "train_step", step)
    code, said = cli(*asked(cohort, "reference", "deeper"), "--arm", "parameters", "-o", tmp_path / "out")
    assert code == 0, said
    assert "deeper" in [row["name"] for row in results(tmp_path / "out")["arms"][0]["rows"]]


def test_runs_that_exist_are_compared_without_training(cohort, cli, tmp_path, monkeypatch):
    out = tmp_path / "out"
    limited = ("--arm", "parameters", "-o", out)
    assert cli(*asked(cohort, "reference", "deeper", seeds=1), *limited)[0] == 0
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("it trains"))
    code, said = cli("--from", out / "runs", "--reference", "reference-4", "-o", tmp_path / "again")
    assert code == 0, said
    before, after = (results(folder)["arms"][0]["rows"] for folder in (out, tmp_path / "again"))
    assert [row["name"] for row in after] == [
        "reference-4", "deeper-4", "one-step-regression-4", "copy of T1", "linear regression"
    ]  # fmt: skip
    assert {row["name"].removesuffix("-4"): row["scores"] for row in after}["deeper"] == before[2]["scores"]
    other = yaml.safe_load((out / "runs" / "deeper-4" / "seed1-fold0" / "config.yaml").read_text())
    other["data"]["slab"] = 1
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(other))
    (tmp_path / "run").rename(out / "runs" / "odd-run")
    code, said = cli("--from", out / "runs", "--reference", "reference-4", "-o", tmp_path / "again")
    assert code == 2
    assert "reference-4 and odd-run differ in more than the backbone (data.slab: 3 / 1)" in said


def test_mistakes_are_said(cohort, cli, tmp_path):
    for arguments, says in [
        ((), "needed are one CONFIG or more and --data"),
        ((*asked(cohort, "reference"), "--budget", "5min"), "both limit a training"),
        (("unet-small", "--data", cohort / "patients", "--budget", "soon"), "is no time"),
        (("--from", tmp_path), "holds no finished run"),
        (("--from", tmp_path, "--steps", 3), "--from takes runs as they are"),
        ((*asked(cohort, "reference"), "--folds", 5), "it has 2"),
        ((*asked(cohort, "reference", "broken"),), "differ in more than the backbone"),
    ]:
        code, said = cli(*arguments, "-o", tmp_path / "out")
        assert (code, says in said) == (2, True), said
