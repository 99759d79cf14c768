import pytest

from dsdiff.comparison import pareto, plan
from dsdiff.config import run as configs
from dsdiff.errors import ConfigError
from tests.toy_data import TINY


def candidate(name, **changes):
    return plan.Candidate(name, configs.parse({**TINY, **changes}, name))


def test_equal_gmacs_means_steps_in_inverse_proportion():
    macs = {"unet": 200, "small": 50, plan.REGRESSION: 200, "large": 600}
    found = plan.steps(90.0, {"unet": 0.5, "small": 0.25, plan.REGRESSION: 0.4, "large": 2.0}, macs, "unet")
    assert found[plan.PARAMETERS] == {"unet": 180, "small": 360, plan.REGRESSION: 180, "large": 45}
    assert found[plan.GMACS] == {"unet": 180, "small": 720, plan.REGRESSION: 180, "large": 60}
    in_steps = plan.steps(100, dict.fromkeys(macs, 1.0), macs, "unet")
    assert set(in_steps[plan.PARAMETERS].values()) == {100}
    assert in_steps[plan.GMACS]["small"] == 400


def test_what_differs_in_more_than_the_backbone_is_refused_with_the_difference():
    reference = candidate("unet")
    other = {"target": "dit", "params": {"hidden_size": 32}}
    adjusted = {**TINY["training"], "lr": 5e-5, "warmup": 9, "batch_size": 1, "accumulate": 2, "steps": 99}
    plan.refuse_unequal([reference, candidate("dit", backbone=other, training=adjusted, seed=5)])
    bad = candidate("dit", backbone=other, data={**TINY["data"], "context_slices": 1}, process={"target": "flow"})
    with pytest.raises(
        ConfigError, match=r"unet and dit differ .*data.context_slices: 3 / 1; process.target: bridge / flow"
    ):
        plan.refuse_unequal([reference, bad])
    with pytest.raises(ConfigError, match=r"slices a step .*: 2 / 8"):
        plan.refuse_unequal([reference, candidate("big", training={**TINY["training"], "batch_size": 8})])


def test_a_file_with_a_backbone_alone_is_put_into_the_recipe():
    unet, dit = plan.candidates(["unet-small", "dit-small"], ["training.lr=1e-4"], "bridge-small")
    assert unet.config == configs.load("bridge-small", ("training.lr=1e-4",))
    assert dit.config.process == unet.config.process
    assert dit.config.backbone == configs.load("dit-small").backbone
    with pytest.raises(ConfigError, match="unet-small is given twice"):
        plan.candidates(["unet-small", "unet-small"], [], "bridge-small")


def test_the_regression_is_the_reference_without_its_process():
    reference = candidate("unet")
    baseline = plan.regression(reference)
    assert baseline.config.backbone == reference.config.backbone
    assert baseline.config.process.target == "regression"
    assert plan.regression(baseline) is None
    tells = plan.regression(plan.candidates(["shipped-second"], [], "bridge-small")[0])
    assert tells.config.sketch().backbone is not None
    assert tells.config.build_process().predict_error
    assert plan.regression(tells) is None


def test_every_seed_and_fold_is_a_run_in_a_folder_of_its_own(tmp_path):
    method = plan.method(candidate("unet"), 7, 2, 3, tmp_path, tmp_path)
    assert len({run.folder for run in method.runs}) == 6
    assert {run.config.training.steps for run in method.runs} == {7}


def test_the_front_is_what_nothing_else_beats():
    assert pareto.pareto([(3.0, 1.0), (1.0, 2.0), (2.0, 5.0), (2.0, 4.0), (4.0, 5.0), (9.0, 6.0)]) == [1, 2, 5]
