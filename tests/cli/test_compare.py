"""The whole of dsdiff compare on tiny networks and patients; jobs run in this process, so that they can be stopped."""

import json
from itertools import count
from shutil import copytree, rmtree

import pytest
import yaml

from dsdiff.comparison import plan, runner, scoring, throughput
from dsdiff.data import splits
from dsdiff.profiling import cost as profile
from dsdiff.profiling.cost import Measured
from dsdiff.system import device as devices
from dsdiff.training import loop
from dsdiff.training.trainer import Diverged
from dsdiff.training.validate import Validation
from tests.toy_data import TINY, command, write_case


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


def inline(patch):
    """Jobs run in this process; what is measured elsewhere is a constant."""
    for module in (runner, throughput):
        patch.setattr(module, "apart", lambda job, *args, threads=1: job(*args))
    patch.setattr(devices, "clock", lambda _: count(0.0, 5.0).__next__)
    patch.setattr(throughput, "seconds_per_step", lambda *_: 0.5)
    patch.setattr(loop, "validate", lambda *_: Validation(0.0, 0, {}))
    patch.setattr(profile, "measure", lambda *_: Measured(0.5, 0.25, None))


def compare(patch, *arguments):
    """Exit code of dsdiff compare."""
    return command(patch, "compare", *arguments, "--device", "cpu", "--jobs", "1")


@pytest.fixture
def cli(capsys, monkeypatch):
    """Exit code and messages of dsdiff compare, in one process."""
    inline(monkeypatch)

    def call(*arguments):
        code, printed = compare(monkeypatch, *arguments), capsys.readouterr()
        return code, printed.out + printed.err

    return call


def asked(cohort, *names):
    files = [cohort / f"{name}.yaml" for name in names]
    return (*files, "--data", cohort / "patients", "--split", cohort / "split.json", "--steps", 4, "--seeds", 1)


def moved(whole, to):
    """A copy of a comparison that goes on where it stands: its runs' configs name the place of their data."""
    copytree(whole, to)
    for config in (to / "runs").glob("*/*/config.yaml"):
        config.write_text(config.read_text().replace(str(whole), str(to)))
    return to


def results(out):
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(cohort):
    """A comparison that ran to its end."""
    with pytest.MonkeyPatch.context() as patch:
        inline(patch)
        assert compare(patch, *asked(cohort, "reference", "deeper"), "-o", cohort / "whole") == 0
    return cohort / "whole"


def test_a_comparison_stopped_and_gone_on_with_is_the_one_that_never_stopped(cohort, cli, whole, tmp_path, monkeypatch):
    step, taken, out = loop.Trainer.train_step, 0, tmp_path / "stopped"

    def stopping(self, *args):
        nonlocal taken
        taken += 1
        if taken == 3 * 4 + 3:  # in the fourth training
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
    assert {**results(out), "command": ""} == {**results(whole), "command": ""}
    assert done == {path: path.stat().st_mtime_ns for path in done}
    table = (out / "table.md").read_text()
    assert table.splitlines()[1:] == (whole / "table.md").read_text().splitlines()[1:]  # the first is the command
    assert cli(*command)[1].startswith(table)  # nothing is left to do: the same text again


def test_both_arms_have_every_method_and_the_baselines(whole):
    found, said = results(whole), (whole / "table.md").read_text()
    assert found["patients"] == ["P0", "P1", "P2", "P3"]
    equal, gmacs = found["arms"]
    names = ["reference", plan.REGRESSION, "deeper", "copy of T1", "linear regression"]
    assert [row["name"] for row in equal["rows"]] == [row["name"] for row in gmacs["rows"]] == names
    assert [row["steps"] for row in equal["rows"][:3]] == [4, 4, 4]
    cost = [row["cost"]["macs"] for row in gmacs["rows"][:3]]
    assert [row["steps"] for row in gmacs["rows"][:3]] == [4, 4, round(4 * cost[0] / cost[2])]
    assert [len(row["scores"]["psnr_brain"]) for row in equal["rows"]] == [1, 1, 1, 1, 1]
    copy = equal["rows"][3]
    assert set(copy["scores"]["gain"][0]) == {0.0}
    assert {one["method"] for one in equal["judgements"]} == set(names[1:])
    assert all(one["verdict"]["sentence"] in said for arm in found["arms"] for one in arm["judgements"])
    assert "27.70" in said  # what the original printed of a UNet
    page = (whole / "report.html").read_text()
    assert "Every patient" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    drawing = (whole / "front.svg").read_text()
    assert drawing.count(">reference<") == drawing.count(">deeper<") == 2  # AUC is empty: here all tumour enhances
    assert (whole / "front.png").stat().st_size > 10_000


def test_cases_are_prepared_for_the_planes_of_the_recipe(cohort, cli, tmp_path):
    out = tmp_path / "planes"
    code, said = cli(*asked(cohort, "reference"), "data.planes=[axial,sagittal]", "--arm", "parameters", "-o", out)
    assert code == 0, said
    assert [row["name"] for row in results(out)["arms"][0]["rows"]][:2] == ["reference", plan.REGRESSION]


def test_a_bad_candidate_does_not_lose_the_others_work(cohort, cli, tmp_path, monkeypatch):
    step = loop.Trainer.train_step

    def failing(self, batch, generator):
        bad = self.config.backbone.params["num_res_blocks"] == 2 and self.config.data.fold == 1
        if bad:
            raise Diverged("the loss is nan", ("P0",))
        return step(self, batch, generator)

    monkeypatch.setattr(loop.Trainer, "train_step", failing)
    names = ("reference", "deeper", "broken")
    arguments = (*asked(cohort, *names), "--arm", "parameters", "--recipe", cohort / "reference.yaml")
    code, said = cli(*arguments, "-o", tmp_path / "out")
    assert code == 1
    assert "Not in it: deeper: 1 of 2 runs failed: the loss is nan" in said
    assert "Left out: broken: " in said
    (arm,) = results(tmp_path / "out")["arms"]
    assert [row["name"] for row in arm["rows"]] == ["reference", plan.REGRESSION, "copy of T1", "linear regression"]
    monkeypatch.setattr(loop.Trainer, "train_step", step)
    code, said = cli(*asked(cohort, "reference", "deeper"), "--arm", "parameters", "-o", tmp_path / "out")
    assert code == 0, said
    assert "deeper" in [row["name"] for row in results(tmp_path / "out")["arms"][0]["rows"]]


def test_runs_that_exist_are_compared_without_training(cli, cohort, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("it trains"))
    command = ("--from", whole / "runs", "--reference", "reference-4", "-o", tmp_path / "again")
    assert "give --data" in cli(*command)[1]
    command += ("--data", cohort / "patients")
    code, said = cli(*command)
    assert code == 0, said
    (before, gmacs), (arm,) = results(whole)["arms"], results(tmp_path / "again")["arms"]
    trained = [f"deeper-{gmacs['rows'][2]['steps']}", "deeper-4", "one-step-regression-4"]
    assert [row["name"] for row in arm["rows"]] == ["reference-4", *trained, "copy of T1", "linear regression"]
    assert arm["rows"][2]["scores"] == before["rows"][2]["scores"]
    assert [bool(row.get("printed")) for row in arm["rows"]] == [True, True, True, False, False, False]
    other = yaml.safe_load((whole / "runs" / "deeper-4" / "seed1-fold0" / "config.yaml").read_text())
    odd = tmp_path / "runs" / "odd"
    (odd / "model").mkdir(parents=True)
    (odd / "config.yaml").write_text(yaml.safe_dump({**other, "data": {**other["data"], "context_slices": 1}}))
    copytree(whole / "runs" / "reference-4", tmp_path / "runs" / "reference-4")
    code, said = cli("--from", tmp_path / "runs", *command[2:])
    assert code == 2
    assert "reference-4 and odd differ in more than the backbone (data.context_slices: 3 / 1)" in said
    copytree(whole / "runs" / "deeper-4" / "seed1-fold1", odd, dirs_exist_ok=True)
    code, said = cli("--from", tmp_path / "runs", *command[2:])
    assert code == 2
    assert "odd has runs of folds [1] under seed 1; reference-4 is scored on folds [0, 1]" in said


def test_the_runs_of_a_comparison_are_compared_as_they_are(cli, cohort, whole, tmp_path):
    """One-step regression comes first by name, and has the default backbone: it is no reference all the same."""
    copytree(whole / "runs", tmp_path / "runs", ignore=lambda _, names: [n for n in names if n.startswith("deeper-3")])
    for name in ("reference-4", "deeper-4", "one-step-regression-4"):
        (tmp_path / "runs" / name).rename(tmp_path / "runs" / name.replace("reference", "zero"))
    code, said = cli("--from", tmp_path / "runs", "--data", cohort / "patients", "-o", tmp_path / "out")
    assert code == 0, said
    assert results(tmp_path / "out")["arms"][0]["rows"][0]["name"] in ("zero-4", "deeper-4")


def test_a_scored_run_is_not_trained_again_for_want_of_its_model(cohort, cli, whole, tmp_path, monkeypatch):
    for config in (moved(whole, tmp_path / "kept") / "runs").glob("*/*/config.yaml"):
        for part in config.parent.iterdir():
            if part.name not in ("config.yaml", scoring.SCORES):
                part.unlink() if part.is_file() else rmtree(part)
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("it trains"))
    code, said = cli(*asked(cohort, "reference", "deeper"), "-o", tmp_path / "kept")
    assert code == 0, said
    assert results(tmp_path / "kept")["arms"] == results(whole)["arms"]


def test_seeds_are_added_to_what_is_there_to_one_arm_alone(cohort, cli, whole, tmp_path):
    out = moved(whole, tmp_path / "two")
    code, said = cli(*asked(cohort, "reference", "deeper"), "--seeds", 2, "--gmac-seeds", 1, "-o", out)
    assert code == 0, said
    assert "seeds: 2 (Equal parameters), 1 (Equal GMACs)" in said
    equal, gmacs = results(out)["arms"]
    assert [len(row["scores"]["psnr_brain"]) for row in equal["rows"]] == [2, 2, 2, 1, 1]
    assert equal["rows"][0]["scores"]["psnr_brain"][0] == gmacs["rows"][0]["scores"]["psnr_brain"][0]
    assert gmacs == results(whole)["arms"][1]


def test_the_same_folder_by_another_way_is_the_same_comparison(cohort, cli, whole, monkeypatch):
    monkeypatch.chdir(whole.parent)
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("it trains"))
    monkeypatch.setattr(throughput, "seconds_per_step", lambda *_: pytest.fail("it times a step anew"))
    code, said = cli(*asked(cohort, "reference", "deeper"), "-o", whole.name)
    assert code == 0, said


def test_a_patient_who_could_not_be_scored_is_said_and_tried_again(cohort, cli, whole, tmp_path, monkeypatch):
    for file in (moved(whole, tmp_path / "again") / "runs").rglob(scoring.SCORES):
        file.unlink()
    synthesise, left = scoring.synthesise, 1

    def stale(*args):
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError("Stale file handle")
        return synthesise(*args)

    monkeypatch.setattr(scoring, "synthesise", stale)
    command = (*asked(cohort, "reference", "deeper"), "-o", tmp_path / "again")
    code, said = cli(*command)
    assert (code, "1 could not be scored and are left out, such as reference, 4 steps, seed 1" in said) == (1, True), (
        said
    )
    assert results(tmp_path / "again")["patients"] == ["P0", "P1", "P2", "P3"]
    code, said = cli(*command)
    assert code == 0, said
    assert results(tmp_path / "again")["arms"][0]["rows"][0]["scores"] == results(whole)["arms"][0]["rows"][0]["scores"]


def test_scores_of_other_files_are_not_taken_for_these(cohort, cli, whole, tmp_path):
    copytree(cohort / "patients", tmp_path / "patients")
    copytree(whole / "runs" / "reference-4", tmp_path / "runs" / "reference-4")
    command = ("--from", tmp_path / "runs", "--data", tmp_path / "patients", "-o", tmp_path / "out")
    assert cli(*command)[0] == 0
    kept = [path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob(scoring.SCORES)]
    before = results(tmp_path / "out")["arms"][0]["rows"]
    write_case(tmp_path / "other", "P0", seed=9)
    for file in (tmp_path / "other" / "P0").iterdir():
        file.replace(tmp_path / "patients" / "P0" / file.name)
    assert cli(*command)[0] == 0
    after = results(tmp_path / "out")["arms"][0]["rows"]
    learnt = "linear regression"  # from P0 too, so that all of it changes
    for old, new in zip(before, after, strict=True):
        old_psnr, new_psnr = old["scores"]["psnr_brain"][0], new["scores"]["psnr_brain"][0]
        assert old_psnr[0] != new_psnr[0]
        assert old_psnr[1:] == new_psnr[1:] or old["name"] == learnt
    again = [path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob(scoring.SCORES)]
    assert sum(a != b for a, b in zip(kept, again, strict=True)) == 1  # the fold that P0 is held out of


def test_existing_runs_are_named_apart_and_unfinished_ones_are_said(cohort, cli, whole, tmp_path):
    for fold in (0, 1):
        for name in ("reference-4", "deeper-4", "one-step-regression-4"):
            copytree(whole / "runs" / name / f"seed1-fold{fold}", tmp_path / "p" / "runs" / f"{name}-fold{fold}")
    command = ("--from", tmp_path / "p", "--data", cohort / "patients", "-o", tmp_path / "out")
    code, said = cli(*command)
    assert code == 0, said
    names = [row["name"] for row in results(tmp_path / "out")["arms"][0]["rows"]]
    assert sorted(names[:3]) == [f"runs/{name}-fold0" for name in ("deeper-4", "one-step-regression-4", "reference-4")]
    for run in (tmp_path / "p" / "runs").glob("*-fold1"):
        rmtree(run / "model")  # scores are enough
    assert cli(*command)[0] == 0
    assert len(results(tmp_path / "out")["patients"]) == 4
    for run in (tmp_path / "p" / "runs").glob("*-fold1"):
        (run / scoring.SCORES).unlink()
    code, said = cli(*command)
    assert (code, "Left out: runs/deeper-4-fold1: not finished" in said) == (1, True), said


def test_any_folder_will_do_and_no_report_of_others_is_replaced(cohort, cli, whole, tmp_path, monkeypatch):
    out = tmp_path / "a #1: b"
    command = [part for part in asked(cohort, "reference") if part not in ("--split", cohort / "split.json")]
    assert cli(*command, "--arm", "parameters", "--folds", 2, "-o", out)[0] == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("it trains"))
    code, said = cli(*command, "--arm", "parameters", "--folds", 2, "-o", out.name)  # with the split it dealt itself
    assert code == 0, said
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("precious")
    code, said = cli(*asked(cohort, "reference"), "-o", tmp_path / "mine")
    assert (code, "holds report.html, not by this command" in said) == (2, True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["report.html"]


def test_a_case_that_cannot_be_prepared_stops_before_any_training(cohort, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "train", lambda *_: pytest.fail("it trains"))
    copytree(cohort / "patients", tmp_path / "patients")
    spoilt = next((tmp_path / "patients").rglob("P2*t2*"))
    spoilt.write_bytes(b"no image")
    command = (*asked(cohort, "reference"), "--data", tmp_path / "patients", "-o", tmp_path / "out")
    code, said = cli(*command)
    assert code == 2
    assert "P2 of" in said and "cannot be prepared" in said


def test_runs_on_other_cases_are_not_compared_with_runs_on_these(cohort, cli, whole, tmp_path):
    out = moved(whole, tmp_path / "grown")
    copytree(cohort / "patients", tmp_path / "patients")
    write_case(tmp_path / "patients", "P9", 9)
    command = (*asked(cohort, "reference", "deeper"), "--data", tmp_path / "patients", "-o", out)
    code, said = cli(*command)
    assert (code, "was trained on other cases" in said) == (2, True), said
    for run in (out / "runs").glob("*/*"):
        rmtree(run / "model")  # the scores say it too
    assert "was trained on other cases" in cli(*command)[1]
    rmtree(tmp_path / "patients" / "P9")
    code, said = cli(*command)
    assert code == 0, said


def test_patients_of_other_folds_are_asked_for_before_the_work(cohort, cli, whole, tmp_path):
    for name in splits.read(cohort / "split.json").held_out(0):
        copytree(cohort / "patients" / name, tmp_path / "patients" / name)
    for name in ("reference-4", "deeper-4"):
        copytree(whole / "runs" / name / "seed1-fold0", tmp_path / "runs" / name / "seed1-fold0")
    code, said = cli("--from", tmp_path / "runs", "--data", tmp_path / "patients", "-o", tmp_path / "out")
    assert (code, "lacks 2 of the 4 patients" in said) == (2, True), said
    assert not (tmp_path / "out").exists()


def test_a_candidate_that_fails_in_its_own_way_is_left_out(cohort, cli, tmp_path, monkeypatch):
    def failing(config, device):
        if config.backbone.params["num_res_blocks"] == 2:
            raise RuntimeError("Given groups=1, expected 9 channels")
        return 0.5

    monkeypatch.setattr(throughput, "seconds_per_step", failing)
    code, said = cli(*asked(cohort, "reference", "deeper"), "--arm", "parameters", "-o", tmp_path / "out")
    assert (code, "Left out: deeper: RuntimeError: Given groups=1" in said) == (1, True), said
    code, said = cli(*asked(cohort, "deeper", "reference"), "--arm", "parameters", "-o", tmp_path / "other")
    assert (code, "the reference deeper cannot be trained: RuntimeError: Given groups=1" in said) == (2, True), said


def test_patients_whom_the_baselines_cannot_be_scored_on_are_said_and_lose_nothing(cohort, cli, whole, tmp_path):
    copytree(cohort / "patients", tmp_path / "patients")
    (tmp_path / "patients" / "P2" / "P2_seg.nii.gz").write_bytes(b"no image")
    copytree(whole / "runs" / "reference-4", tmp_path / "runs" / "reference-4")
    code, said = cli("--from", tmp_path / "runs", "--data", tmp_path / "patients", "-o", tmp_path / "out")
    assert (code, "could not be scored and are left out" in said) == (1, True), said
    assert any(name == "baselines: P2" for name in results(tmp_path / "out")["unscored"])
    assert "| copy of T1 | - |" in (tmp_path / "out" / "table.md").read_text()


def test_weights_that_the_scored_patients_chose_are_refused(cohort, cli, tmp_path):
    code, said = cli(*asked(cohort, "reference"), "training.ema=[0.9,0.99]", "-o", tmp_path / "out")
    assert (code, "of which the patients held out chose one" in said) == (2, True), said


def test_mistakes_are_said(cohort, cli, tmp_path):
    for arguments, says in [
        ((), "needed are one CONFIG or more and --data"),
        ((*asked(cohort, "reference"), "--budget", "5min"), "both limit a training"),
        (("unet-small", "--data", cohort / "patients", "--budget", "soon"), "is no time"),
        (("--from", tmp_path), "holds no finished run"),
        (("--from", tmp_path, "--steps", 3), "--from takes runs as they are"),
        ((*asked(cohort, "reference"), "--reference", "other"), "--reference goes with --from"),
        (("--from", tmp_path, "--gmac-seeds", 2), "--from takes runs as they are"),
        (("--from", tmp_path, "--arm", "gmacs"), "--from takes runs as they are"),
        (("--from", tmp_path, "--recipe", "bridge"), "--from takes runs as they are"),
        ((*asked(cohort, "reference"), "--folds", 5), "it has 2"),
        ((*asked(cohort, "reference", "broken"),), "differ in more than the backbone"),
    ]:
        code, said = cli(*arguments, "-o", tmp_path / "out")
        assert (code, says in said) == (2, True), said
