"""dsdiff compare trains its candidates."""

import pytest

from dsdiff.comparison import throughput
from dsdiff.comparison.candidates import REGRESSION_NAME
from dsdiff.training import loop
from dsdiff.training.trainer import TrainingDivergedError
from tests.cli.compare_helpers import forbid_training, method_names, read_results, training_arguments

pytestmark = pytest.mark.slow
BASELINES = ["copy of T1", "linear regression"]


def test_both_arms_have_every_method_and_the_baselines(finished_comparison):
    results = read_results(finished_comparison)
    assert results["patients"] == ["P0", "P1", "P2", "P3"]
    parameters_arm, gmacs_arm = results["arms"]
    names = ["reference", REGRESSION_NAME, "deeper", *BASELINES]
    assert method_names(parameters_arm) == method_names(gmacs_arm) == names
    assert [method["n_steps"] for method in parameters_arm["methods"][:3]] == [4, 4, 4]
    macs = [method["cost"]["macs"] for method in gmacs_arm["methods"][:3]]
    assert [method["n_steps"] for method in gmacs_arm["methods"][:3]] == [4, 4, round(4 * macs[0] / macs[2])]
    assert [len(method["scores"]["psnr_brain"]) for method in parameters_arm["methods"]] == [1, 1, 1, 1, 1]
    copy_of_t1 = parameters_arm["methods"][3]
    assert set(copy_of_t1["scores"]["enhancement_recovery"][0]) == {0.0}
    assert {result["method"] for result in parameters_arm["pairwise"]} == set(names[1:])


def test_the_table_has_every_verdict_and_the_published_results(finished_comparison):
    table = (finished_comparison / "table.md").read_text()
    for arm in read_results(finished_comparison)["arms"]:
        for result in arm["pairwise"]:
            assert result["verdict"]["sentence"] in table
    assert "27.70" in table  # PSNR of the original UNet


def test_the_report_is_one_self_contained_page(finished_comparison):
    page = (finished_comparison / "report.html").read_text()
    assert "Every patient" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    figure = (finished_comparison / "front.svg").read_text()
    assert figure.count(">reference<") == figure.count(">deeper<") == 2  # no AUC: here all of the tumour enhances
    assert (finished_comparison / "front.png").stat().st_size > 10_000


def test_cases_are_prepared_for_the_planes_of_the_recipe(comparison_inputs, compare, tmp_path):
    out = tmp_path / "planes"
    arguments = (*training_arguments(comparison_inputs, "reference"), "data.planes=[axial,sagittal]")
    code, output = compare(*arguments, "--arm", "parameters", "-o", out)
    assert code == 0, output
    assert method_names(read_results(out)["arms"][0])[:2] == ["reference", REGRESSION_NAME]


def test_a_failing_candidate_does_not_stop_the_others(comparison_inputs, compare, tmp_path, monkeypatch):
    train_step = loop.Trainer.train_step

    def diverge_in_deeper(self, batch, generator):
        if self.config.backbone.params["num_res_blocks"] == 2 and self.config.data.fold == 1:
            raise TrainingDivergedError("the loss is nan", ("P0",))
        return train_step(self, batch, generator)

    monkeypatch.setattr(loop.Trainer, "train_step", diverge_in_deeper)
    arguments = (
        *training_arguments(comparison_inputs, "reference", "deeper", "broken"),
        "--arm",
        "parameters",
        "--recipe",
        comparison_inputs / "reference.yaml",
    )
    code, output = compare(*arguments, "-o", tmp_path / "out")
    assert code == 1
    assert "Incomplete: deeper: 1 of 2 runs failed: the loss is nan" in output
    assert "Excluded: broken: " in output
    (arm,) = read_results(tmp_path / "out")["arms"]
    assert method_names(arm) == ["reference", REGRESSION_NAME, *BASELINES]

    monkeypatch.setattr(loop.Trainer, "train_step", train_step)
    arguments = (*training_arguments(comparison_inputs, "reference", "deeper"), "--arm", "parameters")
    code, output = compare(*arguments, "-o", tmp_path / "out")
    assert code == 0, output
    assert "deeper" in method_names(read_results(tmp_path / "out")["arms"][0])


def test_a_candidate_that_cannot_run_is_excluded(comparison_inputs, compare, tmp_path, monkeypatch):
    def fail_for_deeper(config, device):
        if config.backbone.params["num_res_blocks"] == 2:
            raise RuntimeError("Given groups=1, expected 9 channels")
        return 0.5

    monkeypatch.setattr(throughput, "measure_seconds_per_step", fail_for_deeper)
    arguments = (*training_arguments(comparison_inputs, "reference", "deeper"), "--arm", "parameters")
    code, output = compare(*arguments, "-o", tmp_path / "out")
    assert (code, "Excluded: deeper: RuntimeError: Given groups=1" in output) == (1, True), output

    arguments = (*training_arguments(comparison_inputs, "deeper", "reference"), "--arm", "parameters")
    code, output = compare(*arguments, "-o", tmp_path / "other")
    message = "the reference deeper cannot be trained: RuntimeError: Given groups=1"
    assert (code, message in output) == (2, True), output


def test_an_output_folder_may_have_any_name(comparison_inputs, compare, tmp_path, monkeypatch):
    out = tmp_path / "a #1: b"
    split_arguments = ("--split", comparison_inputs / "split.json")
    arguments = [a for a in training_arguments(comparison_inputs, "reference") if a not in split_arguments]
    arguments += ["--arm", "parameters", "--folds", 2]
    assert compare(*arguments, "-o", out)[0] == 0

    monkeypatch.chdir(tmp_path)
    forbid_training(monkeypatch)
    code, output = compare(*arguments, "-o", out.name)  # with the split that it wrote itself
    assert code == 0, output


def test_a_file_of_another_program_is_not_overwritten(comparison_inputs, compare, tmp_path):
    (tmp_path / "report.html").write_text("precious")
    code, output = compare(*training_arguments(comparison_inputs, "reference"), "-o", tmp_path)
    assert (code, "report.html" in output) == (2, True), output
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_bad_case_stops_the_command_before_any_training(
    case_copies, comparison_inputs, compare, tmp_path, monkeypatch
):
    forbid_training(monkeypatch)
    next(case_copies.rglob("P2*t2*")).write_bytes(b"no image")
    arguments = (*training_arguments(comparison_inputs, "reference"), "--data", case_copies)
    code, output = compare(*arguments, "-o", tmp_path / "out")
    assert code == 2
    assert "P2 of" in output and "cannot be prepared" in output


def test_weights_selected_on_the_scored_patients_are_refused(comparison_inputs, compare, tmp_path):
    arguments = (*training_arguments(comparison_inputs, "reference"), "training.ema=[0.9,0.99]")
    code, output = compare(*arguments, "-o", tmp_path / "out")
    assert (code, "the held-out patients select the best" in output) == (2, True), output


MISTAKES = {
    "no candidate": ([], "give one or more CONFIGs and --data"),
    "two limits": (["reference", "--budget", "5min"], "both limit a training"),
    "budget is no time": (["unet-small", "--budget", "soon"], "is not a time"),
    "reference without --from": (["reference", "--reference", "other"], "--reference needs --from"),
    "too many folds": (["reference", "--folds", 5], "has 2 folds"),
    "other settings differ": (["reference", "broken"], "differ in more than the backbone"),
}
MISTAKES_WITH_FROM = {
    "no run": ([], "holds no finished run"),
    "steps": (["--steps", 3], "compares finished runs without training"),
    "seeds": (["--gmac-seeds", 2], "compares finished runs without training"),
    "arm": (["--arm", "gmacs"], "compares finished runs without training"),
    "recipe": (["--recipe", "bridge"], "compares finished runs without training"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_explained(mistake, comparison_inputs, compare, tmp_path):
    arguments, message = MISTAKES[mistake]
    names = [name for name in arguments if name in ("reference", "broken")]
    options = [option for option in arguments if option not in names]
    if names:
        options = [*training_arguments(comparison_inputs, *names), *options]
    elif options:
        options = [*options, "--data", comparison_inputs / "patients"]
    code, output = compare(*options, "-o", tmp_path / "out")
    assert (code, message in output) == (2, True), output


@pytest.mark.parametrize("mistake", MISTAKES_WITH_FROM)
def test_a_mistake_with_finished_runs_is_explained(mistake, compare, tmp_path):
    arguments, message = MISTAKES_WITH_FROM[mistake]
    code, output = compare("--from", tmp_path, *arguments, "-o", tmp_path / "out")
    assert (code, message in output) == (2, True), output
