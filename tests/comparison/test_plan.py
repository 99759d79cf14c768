import pytest

from dsdiff.comparison import candidates, plan
from dsdiff.comparison.candidates import REGRESSION_NAME, Candidate
from dsdiff.comparison.plan import RunGrid
from dsdiff.comparison_report import pareto
from dsdiff.config.run import load_config, parse_config
from dsdiff.errors import ConfigError
from tests.toy_data import TINY_CONFIG


def build_candidate(name, **changes):
    return Candidate(name, parse_config({**TINY_CONFIG, **changes}, name))


def test_equal_gmacs_gives_steps_in_inverse_proportion():
    macs = {"unet": 200, "small": 50, REGRESSION_NAME: 200, "large": 600}
    seconds_per_step = {"unet": 0.5, "small": 0.25, REGRESSION_NAME: 0.4, "large": 2.0}
    steps = plan.steps_by_arm(90.0, seconds_per_step, macs, "unet")
    assert steps[plan.EQUAL_PARAMETERS] == {"unet": 180, "small": 360, REGRESSION_NAME: 180, "large": 45}
    assert steps[plan.EQUAL_GMACS] == {"unet": 180, "small": 720, REGRESSION_NAME: 180, "large": 60}


def test_a_limit_in_steps_is_the_same_for_every_candidate():
    macs = {"unet": 200, "small": 50}
    steps = plan.steps_by_arm(100, dict.fromkeys(macs, 1.0), macs, "unet")
    assert steps == {plan.EQUAL_PARAMETERS: {"unet": 100, "small": 100}, plan.EQUAL_GMACS: {"unet": 100, "small": 400}}


def test_candidates_may_differ_only_in_backbone_and_its_training():
    reference = build_candidate("unet")
    dit = {"target": "dit", "params": {"hidden_size": 32}}
    dit_training = {**TINY_CONFIG["training"], "lr": 5e-5, "warmup": 9, "batch_size": 1, "accumulate": 2, "steps": 99}
    candidates.check_comparable([reference, build_candidate("dit", backbone=dit, training=dit_training, seed=5)])

    other_data = {**TINY_CONFIG["data"], "context_slices": 1}
    other_settings = build_candidate("dit", backbone=dit, data=other_data, process={"target": "flow"})
    message = r"unet and dit differ .*data.context_slices: 3 / 1; process.target: bridge / flow"
    with pytest.raises(ConfigError, match=message):
        candidates.check_comparable([reference, other_settings])

    larger_batch = build_candidate("big", training={**TINY_CONFIG["training"], "batch_size": 8})
    with pytest.raises(ConfigError, match=r"slices per step .*: 2 / 8"):
        candidates.check_comparable([reference, larger_batch])


def test_the_recipe_completes_a_config_with_only_a_backbone():
    unet, dit = candidates.load_candidates(["unet-small", "dit-small"], ["training.lr=1e-4"], "bridge-small")
    assert unet.config == load_config("bridge-small", ("training.lr=1e-4",))
    assert dit.config.process == unet.config.process
    assert dit.config.backbone == load_config("dit-small").backbone


def test_a_repeated_candidate_is_refused():
    with pytest.raises(ConfigError, match="unet-small is repeated"):
        candidates.load_candidates(["unet-small", "unet-small"], [], "bridge-small")


def test_the_regression_baseline_is_the_reference_without_diffusion():
    reference = build_candidate("unet")
    baseline = candidates.regression_baseline(reference)
    assert baseline.config.backbone == reference.config.backbone
    assert baseline.config.process.target == "regression"
    assert candidates.regression_baseline(baseline) is None


def test_the_regression_baseline_predicts_its_error_if_the_reference_does():
    baseline = candidates.regression_baseline(candidates.load_candidates(["shipped-second"], [], "bridge-small")[0])
    assert baseline.config.meta_network().backbone is not None
    assert baseline.config.build_process().predict_error
    assert candidates.regression_baseline(baseline) is None


def test_every_seed_and_fold_has_its_own_run_folder(tmp_path):
    method = plan.build_method(build_candidate("unet"), 7, RunGrid(tmp_path, tmp_path, n_seeds=2, n_folds=3))
    assert len({run.folder for run in method.runs}) == 6
    assert {run.config.training.steps for run in method.runs} == {7}


def test_the_pareto_front_is_not_dominated():
    points = [(3.0, 1.0), (1.0, 2.0), (2.0, 5.0), (2.0, 4.0), (4.0, 5.0), (9.0, 6.0)]
    assert pareto.pareto_front(points) == [1, 2, 5]
